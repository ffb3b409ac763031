-- The tables, which are alike in all databases; their stores add indexes for `task`. Times are seconds since the epoch.

create table if not exists omniq.task (
    id               {key} primary key,
    queue_name       {key} not null,
    state            {key} not null default 'pending' check (state in
                         ('pending', 'scheduled', 'waiting', 'running', 'success', 'error', 'cancelled', 'expired')),
    priority         {small} not null,
    created_at       {time} not null default {epoch},
    run_at           {time} not null default {epoch},
    expires_at       {time},
    finished_at      {time},
    epoch            integer not null default 0,
    attempts         integer not null default 0,
    crashes          integer not null default 0,
    lease_until      {time},
    claimed_at       {time},
    worker           text,
    cancel_requested {boolean[cancel_requested]} not null default {false},
    depends_on       {texts[depends_on]},
    schedule_id      {key},
    name             {key} not null default '',
    unique_key       {key},                   -- held until the task ends
    body             {body}
) {tasks};

create index if not exists task_finished on omniq.task (state, finished_at) where finished_at is not null;
create unique index if not exists task_unique on omniq.task (unique_key) where unique_key is not null;

create table if not exists omniq.edge (
    parent {key} not null,
    child  {key} not null,
    primary key (parent, child)
) {keyed};

create index if not exists edge_child on omniq.edge (child);

create table if not exists omniq.paused_queue (
    queue_name {key} primary key
) {keyed};

create table if not exists omniq.worker (
    name      {key} primary key,
    last_seen {time} not null,
    report    {object[report]} not null,
    asked     integer not null default 0 -- 1: somebody asks what it runs; 2: it was told so with its last beat
) {keyed};

create table if not exists omniq.schedule (
    id         {key} primary key,
    queue_name {key} not null,
    body       {bytes} not null,
    next_run   {time},
    last_run   {time},
    paused     {boolean[paused]} not null,
    version    {bigint} not null
) {keyed};

create index if not exists schedule_due on omniq.schedule (next_run) where paused = {false} and next_run is not null;

create table if not exists omniq.result (
    task_id     {key} primary key,
    epoch       integer not null,
    status      {key} not null check (status in ('running', 'success', 'error', 'cancelled', 'expired')),
    schedule_id {key},
    finished_at {time} not null,
    expires_at  {time},
    body        {bytes} not null
) {keyed};

create index if not exists result_expiring on omniq.result (expires_at) where expires_at is not null;
create index if not exists result_of_schedule on omniq.result (schedule_id, finished_at) where schedule_id is not null;

create table if not exists omniq.event (
    id          {key} primary key,
    time        {time} not null,
    type        {key} not null,
    task_id     {key},
    name        text,
    schedule_id {key},
    queue_name  {key},
    worker      text,
    attempt     integer,
    data        {object[data]}
) {keyed};

create index if not exists event_time on omniq.event (time, id);
create index if not exists event_task on omniq.event (task_id, time, id) where task_id is not null;
create index if not exists event_schedule on omniq.event (schedule_id, time, id) where schedule_id is not null;
