-- Tasks are in the hash `task`, their bodies apart in `body`, so that changes of state don't write them again.
-- A task that has been read is a list: its id, the fields of its record, and its parents as msgpack.
local TASK = '>BbI4I4I4I4I4BddddddI2c0I2c0I2c0'
local ID, STATE, PRIORITY, EPOCH, ATTEMPTS, CRASHES, SIZE, AWAITED, CANCEL = 1, 2, 3, 4, 5, 6, 7, 8, 9
local CREATED_AT, RUN_AT, EXPIRES_AT, FINISHED_AT, LEASE_UNTIL, CLAIMED_AT = 10, 11, 12, 13, 14, 15
local QUEUE, WORKER, SCHEDULE, PARENTS = 16, 17, 18, 19
-- AWAITED: how many children wait for it.

local PENDING, SCHEDULED, WAITING, RUNNING, SUCCESS = 1, 2, 3, 4, 5
local NAMES = { 'pending', 'scheduled', 'waiting', 'running', 'success', 'error', 'cancelled', 'expired' }

local tasks, records = {}, {}

local function remember(id, record)
  records[id] = record
  if not record then
    tasks[id] = false
    return
  end
  local t = { id, struct_unpack(TASK, record) }
  t[PARENTS] = record:sub(t[PARENTS])
  tasks[id] = t
end

local function record_of(t)
  local queue, worker, schedule = t[QUEUE], t[WORKER], t[SCHEDULE]
  return struct_pack(TASK, t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10], t[11], t[12], t[13], t[14], t[15],
    #queue, queue, #worker, worker, #schedule, schedule) .. t[PARENTS]
end

local function read_tasks(ids)
  for i, record in ipairs(fields('task', ids)) do
    if tasks[ids[i]] == nil then remember(ids[i], record) end
  end
end

-- The task, or false.
local function task(id)
  if tasks[id] == nil then remember(id, call('HGET', prefix .. 'task', id)) end
  return tasks[id]
end

-- Every task is in the set that orders the tasks of its state; and by id, in the set `ids`, and in one of its state if
-- that is rare.
local RARE = { [WAITING] = 'waiting', [6] = 'error', [7] = 'cancelled', [8] = 'expired' }

local function ordering_set(state, queue)
  if state == PENDING then return 'ready:' .. queue end
  if state == SCHEDULED then return 'later:' .. queue end
  if state == RUNNING then return 'lease' end
  return state ~= WAITING and 'ended'
end

local function score(t)
  local state = t[STATE]
  if state == PENDING then
    -- Higher priority first, then by milliseconds; 2^42 of them end in the year 2109.
    return math.floor(math.min(math.max(t[RUN_AT] * 1000, 0), 2 ^ 42 - 1)) - t[PRIORITY] * 2 ^ 42
  end
  if state == SCHEDULED then return t[RUN_AT] end
  if state == RUNNING then return t[LEASE_UNTIL] end
  -- An ended task can be purged once no child waits for it.
  return t[AWAITED] == 0 and t[FINISHED_AT]
end

-- The tasks that leave their sets and those that enter theirs, by queue and state.
local leaving, entering = {}, {}

local function gather(lists, t)
  local key = t[QUEUE] .. ' ' .. NAMES[t[STATE]]
  local list = lists[key]
  if not list then
    list = { queue = t[QUEUE], state = t[STATE], size = 0 }
    lists[key] = list
  end
  local size = list.size + 1
  list[size], list.size = t, size
end

local function leave(t)
  gather(leaving, t)
  if t[EXPIRES_AT] ~= NEVER then
    drop('expiring', t[ID])
    drop('overdue', t[ID])
  end
end

local function enter(t)
  gather(entering, t)
  if t[EXPIRES_AT] ~= NEVER and t[STATE] <= WAITING then put('expiring', t[ID], t[EXPIRES_AT]) end
end

local function count(key, difference)
  if call('HINCRBY', prefix .. 'count', key, difference) == 0 then call('HDEL', prefix .. 'count', key) end
end

local function write_leaving(key, list)
  local ids = {}
  for i = 1, list.size do ids[i] = list[i][ID] end
  local ordering, rare = ordering_set(list.state, list.queue), RARE[list.state]
  if ordering then in_slices('ZREM', ordering, ids) end
  if rare then in_slices('ZREM', rare, ids) end
  count(key, -list.size)
end

-- What ZADD takes.
local function scored(list, score_of)
  local found, n = {}, 0
  for i = 1, list.size do
    local at = score_of(list[i])
    if at then
      found[n + 1], found[n + 2] = at, list[i][ID]
      n = n + 2
    end
  end
  return found
end

local function zero() return 0 end

local function write_entering(key, list)
  local ordering, rare = ordering_set(list.state, list.queue), RARE[list.state]
  if ordering then in_slices('ZADD', ordering, scored(list, score)) end
  if rare then in_slices('ZADD', rare, scored(list, zero)) end
  count(key, list.size)
end

-- Who waits hears of a queue that gets something due, or something due sooner than before: of the rest it has heard.
local function news(list)
  local queue = list.queue
  if list.state == PENDING then return call('EXISTS', prefix .. 'ready:' .. queue) == 0 and { queue, 0 } end
  if list.state ~= SCHEDULED then return false end
  local soonest = NEVER
  for i = 1, list.size do soonest = math.min(soonest, list[i][RUN_AT]) end
  local head = call('ZRANGE', prefix .. 'later:' .. queue, 0, 0, 'WITHSCORES')[2]
  return (not head or soonest < tonumber(head)) and { queue, soonest - now }
end

-- The tasks to be written at the end, and those among them whose place in the sets may change.
local changed, touched, moved = {}, {}, {}

local function touch(t)
  if not touched[t] then
    touched[t] = true
    changed[#changed + 1] = t
  end
end

local function move(t)
  if not moved[t] then
    moved[t] = true
    leave(t)
    touch(t)
  end
end

local function create(t)
  tasks[t[ID]] = t
  moved[t] = true
  touch(t)
end

local function write_tasks(quietly)
  local written = {}
  for i, t in ipairs(changed) do
    if moved[t] then enter(t) end
    local record = record_of(t)
    records[t[ID]] = record
    written[2 * i - 1], written[2 * i] = t[ID], record
  end
  for key, list in pairs(leaving) do write_leaving(key, list) end
  local heard = {}
  for key, list in pairs(entering) do
    heard[#heard + 1] = not quietly and news(list) or nil
    write_entering(key, list)
  end
  in_slices('HSET', 'task', written)
  write_scores()
  if #heard > 0 then call('PUBLISH', prefix .. 'tasks', pack(heard)) end
  changed, touched, moved, leaving, entering = {}, {}, {}, {}, {}
end

-- As many of the ids as have bodies that one reply should hold.
local function affordable(ids)
  local total = 0
  for i, id in ipairs(ids) do
    total = total + tasks[id][SIZE]
    if total > MAX_BODIES and i > 1 then return { unpack(ids, 1, i - 1) } end
  end
  return ids
end

-- Id, record and body of each task, nil for those that aren't there.
local function rows(ids)
  local items = {}
  for i, body in ipairs(fields('body', ids)) do
    local id = ids[i]
    items[i] = records[id] and '\147' .. pack(id) .. bytes(records[id]) .. bytes(body) or NIL
  end
  return packed_list(items)
end

local function parents_of(t) return t[PARENTS] == '' and {} or cmsgpack.unpack(t[PARENTS]) end

-- The tasks that it depends on and that are there, each once.
local function each_parent(t, visit)
  local seen = {}
  for _, id in ipairs(parents_of(t)) do
    local parent = not seen[id] and task(id)
    if parent then visit(parent) end
    seen[id] = true
  end
end

local function await(parent, difference)
  if parent[STATE] >= SUCCESS then move(parent) else touch(parent) end
  parent[AWAITED] = parent[AWAITED] + difference
end

local new_ids, new_bodies = {}, {}

local function write_new()
  write_tasks()
  in_slices('ZADD', 'ids', new_ids)
  in_slices('HSET', 'body', new_bodies)
end

-- Returns a letter: the task is new, a duplicate, or has an unknown parent. `kind` is what it may share with others.
local function add_task(id, kind, size)
  local queue, priority, run_at, delay, ttl, parents, schedule = unpack(kind, 1, 7)
  local body = next_body(size)
  if task(id) then return 'd' end
  for _, parent in ipairs(parents or {}) do
    if not task(parent) then return 'u' end
  end
  run_at = run_at or now + delay
  local state = parents and WAITING or run_at <= now and PENDING or SCHEDULED
  local t = {
    id, state, priority, 0, 0, 0, size, 0, 0,
    now, run_at, ttl and run_at + ttl or NEVER, NEVER, NEVER, NEVER,
    queue, '', schedule or '', parents and pack(parents) or '',
  }
  create(t)
  local n = #new_bodies
  new_ids[n + 1], new_ids[n + 2] = 0, id
  new_bodies[n + 1], new_bodies[n + 2] = id, body
  if schedule then put('tasks_of:' .. schedule, id, 0) end
  if parents then
    each_parent(t, function(parent)
      await(parent, 1)
      put('children:' .. parent[ID], id, 0)
    end)
  end
  return 'n'
end
