local CODES = {}
for code, name in ipairs(NAMES) do CODES[name] = code end

-- What a task has behind it in another store.
local function add_past(t, past)
  if past.state ~= 'pending' then
    t[STATE] = CODES[past.state]
  else
    t[STATE] = t[RUN_AT] <= now and PENDING or SCHEDULED
  end
  t[EPOCH], t[ATTEMPTS], t[CRASHES] = past.epoch or 0, past.attempts or 0, past.crashes or 0
  t[CREATED_AT], t[FINISHED_AT] = past.created_at, past.finished_at or NEVER
end

-- New tasks come as lists: what several of them share, ids, which of those kinds each is of, and the sizes of the
-- bodies. What tasks of one kind have in common is worked out, and written, once for all of them.
local function prepared(kind)
  local queue, priority, run_at, delay, ttl, parents, schedule, name, unique, past = unpack(kind, 1, 10)
  run_at = run_at or now + delay
  parents = #parents > 0 and parents
  local t = {
    '', parents and WAITING or run_at <= now and PENDING or SCHEDULED, priority, 0, 0, 0, 0, 0, 0,
    now, run_at, ttl and run_at + ttl or NEVER, NEVER, NEVER, NEVER,
    queue, schedule or '', parents and pack(parents) or '', name, unique or '', '',
  }
  if past then add_past(t, past) end
  return { task = t, parents = distinct(parents or {}), unique = unique, records = {}, ids = {} }
end

-- Tasks of one kind differ by their ids, which aren't in the record, and by the sizes of their bodies.
local function record_for(kind, size)
  if not kind.records[size] then
    kind.task[SIZE] = size
    kind.records[size] = record_of(kind.task)
  end
  return kind.records[size]
end

-- Who has a unique key, by the key.
local holders = {}

local function read_holders(keys)
  local ids = {}
  for i, id in ipairs(fields('unique', keys)) do
    if id then
      holders[keys[i]] = id
      ids[#ids + 1] = id
    end
  end
  read_records(ids)
end

-- Nil for a key that is free: a task that has ended holds none, nor does what was deleted or damaged by others.
local function holder(key)
  local t = holders[key] and task(holders[key])
  return t and t[STATE] < SUCCESS and t[UNIQUE] == key and holders[key] or nil
end

local new_records, new_bodies, new_holders = {}, {}, {}
local held_by = {}

local function store(id, kind, record, body)
  records[id] = record
  kind.ids[#kind.ids + 1] = id
  local n = #new_records
  new_records[n + 1], new_records[n + 2] = id, record
  new_bodies[n + 1], new_bodies[n + 2] = id, body
  if kind.unique then
    n = #new_holders
    holders[kind.unique] = id
    new_holders[n + 1], new_holders[n + 2] = kind.unique, id
  end
end

-- Returns a letter: the task is new, a duplicate, has an unknown parent, or its key is held by a task, which is noted.
local function add_task(id, kind, size)
  local body = next_body(size)
  if records[id] then return 'd' end
  for _, parent in ipairs(kind.parents) do
    if not records[parent] then return 'u' end
  end
  local found = kind.unique and holder(kind.unique)
  if found then
    held_by[#held_by + 1] = found
    return 'h'
  end
  store(id, kind, record_for(kind, size), body)
  return 'n'
end

local function write_kind(kind)
  local t, ids = kind.task, kind.ids
  local function put_all(key, score) in_slices('ZADD', key, scored(score, ids)) end
  note_news(t[QUEUE], t[STATE], t[RUN_AT], #ids)
  put_all(ordering_set(t[STATE], t[QUEUE]), score(t))
  put_all('ids', place(t))
  if t[EXPIRES_AT] ~= NEVER and t[STATE] <= WAITING then put_all('expiring', t[EXPIRES_AT]) end
  if t[SCHEDULE] ~= '' then put_all('tasks_of:' .. t[SCHEDULE], 0) end
  for _, parent in ipairs(kind.parents) do
    if t[STATE] == WAITING then await(task(parent), #ids) end
    put_all('children:' .. parent, 0)
  end
  count(t[QUEUE], t[STATE], #ids)
end

-- Returns a letter for each task, and the ids of those that hold keys. With `wanted`, adds only those for which it is
-- true.
local function add_tasks(kinds, ids, kind, sizes, wanted)
  local keys = {}
  read_records(ids)
  for i, shared in ipairs(kinds) do
    kinds[i] = prepared(shared)
    keys[#keys + 1] = kinds[i].unique
    read_records(kinds[i].parents)
  end
  read_holders(keys)
  local outcomes = {}
  for i, id in ipairs(ids) do
    if wanted and not wanted[i] then
      next_body(sizes[i])
    else
      outcomes[#outcomes + 1] = add_task(id, kinds[kind[i]], sizes[i])
    end
  end
  for _, of_kind in ipairs(kinds) do
    if #of_kind.ids > 0 then write_kind(of_kind) end
  end
  in_slices('HSET', 'unique', new_holders)
  in_slices('HSET', 'task', new_records)
  in_slices('HSET', 'body', new_bodies)
  write_tasks() -- the parents
  tell_news()
  return table.concat(outcomes), held_by
end
