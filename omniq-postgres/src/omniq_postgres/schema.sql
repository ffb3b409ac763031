-- Version 3, beside the tables of omniq.storage.sql, for the schema "omniq"; another name is put in its place. Times are on
-- the server's clock (`to_timestamp(run_at)` shows them); ids and names compare by code point.

create table omniq.installation (
    version integer not null,
    project text not null
);

alter table omniq.task set (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

-- Each state has the index that its readers walk; delayed tasks are apart from due ones, so that an idle claim
-- doesn't step over them.
create index task_pending on omniq.task (queue_name, (-priority::integer), run_at, id) where state = 'pending';
create index task_scheduled on omniq.task (queue_name, run_at) where state = 'scheduled';
create index task_waiting on omniq.task (id, queue_name) where state = 'waiting';
create index task_running on omniq.task (lease_until, queue_name) where state = 'running';
create index task_ended on omniq.task (queue_name, name, state, id) where finished_at is not null;
create index task_of_no_state on omniq.task (id, queue_name) where state not in
    ('pending', 'scheduled', 'waiting', 'running', 'success', 'error', 'cancelled', 'expired'); -- only damaged ones
create index task_expiring on omniq.task (expires_at)
    where expires_at is not null and state in ('pending', 'scheduled', 'waiting');
create index task_of_schedule on omniq.task (schedule_id, state, id) where schedule_id is not null;

create unlogged table omniq.idle_worker (
    name    text collate "C" primary key,
    process bigint not null,
    queues  text[] not null
);
