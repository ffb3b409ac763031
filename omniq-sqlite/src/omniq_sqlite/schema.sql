-- Version 3, beside the tables of omniq.storage.sql. They are STRICT and checked, so that nobody's slip of the
-- hand at a prompt leaves a row behind which a worker can't read.

-- SQLite rewrites the whole row at every change of state: bodies of more than 32 KiB are kept apart.
create table if not exists large_body (
    task_id text primary key not null,
    body    blob not null
) strict;

-- Each state has the index that its readers walk; delayed tasks are apart from due ones, so that an idle claim
-- doesn't step over them. They hold `state`, which SQLite looks at again, and would else fetch every row for.
create index if not exists task_pending on task (queue_name, priority desc, run_at, id, state) where state = 'pending';
create index if not exists task_scheduled on task (queue_name, run_at, state) where state = 'scheduled';
create index if not exists task_waiting on task (id, queue_name, state) where state = 'waiting';
create index if not exists task_running on task (lease_until, queue_name, state) where state = 'running';
create index if not exists task_expiring on task (expires_at, state)
    where expires_at is not null and state in ('pending', 'scheduled', 'waiting');

-- The lists, in the order of ids. They are entered once, when a task is added or when it ends: nothing more is written
-- for them at a claim. SQLite sees that the first one serves only by a term that stands alone. The last one holds what
-- only damage can bring about, by single terms: for each task that changes, `not in` would take as long as all the rest.
create index if not exists task_ended on task (state, queue_name, id)
    where state = 'success' or state = 'error' or state = 'cancelled' or state = 'expired';
create index if not exists task_of_name on task (name, id);
create index if not exists task_of_schedule on task (schedule_id, id) where schedule_id is not null;
create index if not exists task_of_no_state on task (id, queue_name, state)
    where state <> 'pending' and state <> 'scheduled' and state <> 'waiting' and state <> 'running'
        and state <> 'success' and state <> 'error' and state <> 'cancelled' and state <> 'expired';
