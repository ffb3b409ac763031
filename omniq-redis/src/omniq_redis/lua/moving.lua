-- Changing tasks: the sets they are in follow from what they are, and are brought up to date when they are written.
local function score(t)
  local state = t[STATE]
  if state == PENDING then
    -- Higher priority first, then by milliseconds; 2^42 of them end in the year 2109.
    return math.floor(math.min(math.max(t[RUN_AT] * 1000, 0), 2 ^ 42 - 1)) - t[PRIORITY] * 2 ^ 42
  end
  if state == SCHEDULED then return t[RUN_AT] end
  if state == WAITING then return 0 end
  if state == RUNNING then return t[LEASE_UNTIL] end
  -- An ended task can be purged once no child waits for it.
  return t[AWAITED] == 0 and t[FINISHED_AT]
end

local function count(queue, state, difference)
  local key = queue .. ' ' .. NAMES[state]
  local left = redis.pcall('HINCRBY', prefix .. 'count', key, difference)
  if type(left) == 'table' then
    -- Where it isn't a number, somebody else has written it.
    if left.err:find('integer', 1, true) or left.err:find('overflow', 1, true) then
      call('HDEL', prefix .. 'count', key)
    end
    left = call('HINCRBY', prefix .. 'count', key, difference)
  end
  if left <= 0 then call('HDEL', prefix .. 'count', key) end
end

-- What stands in, from now on, for a task without a record of ours; the queue and the state are those of the set in
-- which it was found.
local function stand_in(id, queue, state)
  damage[id] = records[id] and 'its record is none of ours' or 'its record is missing'
  if not records[id] then count(queue, state, 1) end
  local size = call('HSTRLEN', prefix .. 'body', id)
  local t = { id, state, 0, STAND_IN_EPOCH, DAMAGED, 0, size, 0, 0, now, now, NEVER, NEVER, NEVER, NEVER, queue, '', '', '', '', '' }
  put('ids', id, place(t))
  tasks[id], records[id] = t, record_of(t)
  return t
end

-- The queue in a record that is damaged elsewhere.
local function queue_in(record)
  local ok, queue = pcall(struct_unpack, '>I2c0', record or '', 72)
  return ok and queue:match('^[%w_.-]+$') or 'default'
end

-- Workers that have found nothing are called one by one, as claim.lua notes them: which process each belongs to, and
-- from which queues it claims.
local idle

-- Call a worker for each of so many tasks, as far as there are any that claim from the queue; returns whether there
-- were. Where nobody listens any more, the next one is called.
local function call_idle(queue, tasks)
  idle = idle or call('HGETALL', prefix .. 'idle')
  local message, left = pack({ sender, { { queue, 0 } } }), tasks
  for i = 1, #idle, 2 do
    local worker, claims = idle[i], idle[i + 1]
    if left > 0 and worker and claims:find('/' .. queue .. '/', 1, true) then
      idle[i] = false
      call('HDEL', prefix .. 'idle', worker)
      if call('PUBLISH', prefix .. 'news:' .. claims:match('^[^/]*'), message) > 0 then left = left - 1 end
    end
  end
  return left < tasks
end

-- Everybody else who waits hears of a queue that gets something due while no idle worker was there to be called, or
-- something due sooner than before: of the rest it has heard.
local heard = {}

local function note_news(queue, state, soonest, tasks)
  if state == PENDING then
    local was_empty = call('EXISTS', prefix .. 'ready:' .. queue) == 0
    if not call_idle(queue, tasks) and was_empty then heard[#heard + 1] = { queue, 0 } end
  elseif state == SCHEDULED then
    local head = call('ZRANGE', prefix .. 'later:' .. queue, 0, 0, 'WITHSCORES')[2]
    if not head or soonest < tonumber(head) then heard[#heard + 1] = { queue, soonest - now } end
  end
end

local function tell_news()
  if #heard > 0 then call('PUBLISH', prefix .. 'news', pack({ sender, heard })) end
end

-- The tasks that leave their sets and those that enter theirs, by queue and state.
local leaving, entering = {}, {}

local function gather(lists, t)
  local key = t[QUEUE] .. ' ' .. t[STATE]
  local list = lists[key]
  if not list then
    list = { queue = t[QUEUE], state = t[STATE], size = 0, soonest = NEVER }
    lists[key] = list
  end
  list.size = list.size + 1
  list[list.size] = t
  if t[RUN_AT] < list.soonest then list.soonest = t[RUN_AT] end
end

local function leave(t)
  gather(leaving, t)
  t.left = place(t)
  if t[EXPIRES_AT] ~= NEVER then
    drop('expiring', t[ID])
    drop('overdue', t[ID])
  end
end

local function enter(t)
  gather(entering, t)
  if place(t) ~= t.left then put('ids', t[ID], place(t)) end
  if t[EXPIRES_AT] ~= NEVER and t[STATE] <= WAITING then put('expiring', t[ID], t[EXPIRES_AT]) end
end

local function write_leaving(list)
  local ids = {}
  for i = 1, list.size do ids[i] = list[i][ID] end
  in_slices('ZREM', ordering_set(list.state, list.queue), ids)
  count(list.queue, list.state, -list.size)
end

local function write_entering(list)
  local members, n = {}, 0
  for i = 1, list.size do
    local at = score(list[i])
    if at then
      members[n + 1], members[n + 2] = text(at), list[i][ID]
      n = n + 2
    end
  end
  in_slices('ZADD', ordering_set(list.state, list.queue), members)
  count(list.queue, list.state, list.size)
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

local function write_tasks()
  local written = {}
  for i, t in ipairs(changed) do
    if moved[t] then enter(t) end
    local record = record_of(t)
    records[t[ID]] = record
    written[2 * i - 1], written[2 * i] = t[ID], record
  end
  for _, list in pairs(leaving) do write_leaving(list) end
  for _, list in pairs(entering) do
    note_news(list.queue, list.state, list.soonest, list.size)
    write_entering(list)
  end
  in_slices('HSET', 'task', written)
  write_scores()
  changed, touched, moved, leaving, entering = {}, {}, {}, {}, {}
end

local function await(parent, difference)
  if not parent then return end
  if parent[STATE] >= SUCCESS then move(parent) else touch(parent) end
  parent[AWAITED] = parent[AWAITED] + difference
end

-- Each id once.
local function distinct(ids)
  local found, seen = {}, {}
  for _, id in ipairs(ids) do
    if not seen[id] then found[#found + 1] = id end
    seen[id] = true
  end
  return found
end
