-- New tasks come as lists: what several of them share, ids, which of those kinds each is of, and the sizes of the
-- bodies. What tasks of one kind have in common is worked out, and written, once for all of them.
local function prepared(kind)
  local queue, priority, run_at, delay, ttl, parents, schedule, name = unpack(kind, 1, 8)
  run_at = run_at or now + delay
  parents = #parents > 0 and parents
  local t = {
    '', parents and WAITING or run_at <= now and PENDING or SCHEDULED, priority, 0, 0, 0, 0, 0, 0,
    now, run_at, ttl and run_at + ttl or NEVER, NEVER, NEVER, NEVER,
    queue, schedule or '', parents and pack(parents) or '', name, '',
  }
  return { task = t, parents = distinct(parents or {}), records = {}, ids = {} }
end

-- Tasks of one kind differ by their ids, which aren't in the record, and by the sizes of their bodies.
local function record_for(kind, size)
  if not kind.records[size] then
    kind.task[SIZE] = size
    kind.records[size] = record_of(kind.task)
  end
  return kind.records[size]
end

local new_ids, new_records, new_bodies = {}, {}, {}

-- Returns a letter: the task is new, a duplicate, or has an unknown parent.
local function add_task(id, kind, size)
  local body = next_body(size)
  if records[id] then return 'd' end
  for _, parent in ipairs(kind.parents) do
    if not records[parent] then return 'u' end
  end
  local record = record_for(kind, size)
  records[id] = record
  kind.ids[#kind.ids + 1] = id
  local n = #new_ids
  new_ids[n + 1], new_ids[n + 2] = '0', id
  new_records[n + 1], new_records[n + 2] = id, record
  new_bodies[n + 1], new_bodies[n + 2] = id, body
  return 'n'
end

local function write_kind(kind)
  local t, ids = kind.task, kind.ids
  local function put_all(key, score) in_slices('ZADD', key, scored(score, ids)) end
  note_news(t[QUEUE], t[STATE], t[RUN_AT])
  if t[STATE] == WAITING then put_all('waiting', 0) else put_all(ordering_set(t[STATE], t[QUEUE]), score(t)) end
  if t[EXPIRES_AT] ~= NEVER then put_all('expiring', t[EXPIRES_AT]) end
  if t[SCHEDULE] ~= '' then put_all('tasks_of:' .. t[SCHEDULE], 0) end
  for _, parent in ipairs(kind.parents) do
    await(task(parent), #ids)
    put_all('children:' .. parent, 0)
  end
  count(t[QUEUE], t[STATE], #ids)
end

local function add_tasks(kinds, ids, kind, sizes)
  read_records(ids)
  for i, shared in ipairs(kinds) do
    kinds[i] = prepared(shared)
    read_records(kinds[i].parents)
  end
  local outcomes = {}
  for i, id in ipairs(ids) do outcomes[i] = add_task(id, kinds[kind[i]], sizes[i]) end
  for _, of_kind in ipairs(kinds) do
    if #of_kind.ids > 0 then write_kind(of_kind) end
  end
  in_slices('ZADD', 'ids', new_ids)
  in_slices('HSET', 'task', new_records)
  in_slices('HSET', 'body', new_bodies)
  write_tasks() -- the parents
  tell_news()
  return outcomes
end
