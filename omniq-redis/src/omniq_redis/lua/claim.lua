-- needs common tasks moving
-- queues, limit, lease, worker, whether it waits for more → rows of the tasks claimed
local queues, limit, lease, worker, waits = unpack(args)
local PROMOTED = 500

-- At least as many as are claimed, since a task that has just come due may have the highest priority.
local budget = math.max(limit, PROMOTED)
local function promote(queue)
  local ids = call('ZRANGEBYSCORE', prefix .. 'later:' .. queue, '-inf', now, 'LIMIT', 0, budget)
  budget = budget - #ids
  read_records(ids)
  for _, id in ipairs(ids) do
    local t = task(id) or stand_in(id, queue, SCHEDULED)
    if t[STATE] == SCHEDULED then
      move(t)
      t[STATE] = PENDING
    else
      drop('later:' .. queue, id) -- it isn't its place
    end
  end
end

local open = {}
for _, queue in ipairs(holding(queues)) do
  if call('SISMEMBER', prefix .. 'paused', queue) == 0 then
    open[#open + 1] = queue
    promote(queue)
  end
end
idle = {}
write_tasks() -- and call nobody: who waits has set its alarm for what has come due

local claimed, written = {}, {}
local lease_until = now + lease
local times = struct_pack('>dd', lease_until, now)
local packed_worker = struct_pack('>I2c0', #worker, worker)
local room = MAX_BODIES

-- The record to claim, its epoch, size and time of expiry; nil if it isn't its place.
local function pending(id, record, queue)
  local ok, state, epoch, size, expires_at, place = pcall(struct_unpack, LOOK_TO_CLAIM, record)
  if ok and state == PENDING and place == queue then return record, epoch, size, expires_at end
  records[id] = record
  local t = task(id)
  if t and (t[STATE] ~= PENDING or t[QUEUE] ~= queue) then return nil end
  t = t or stand_in(id, queue, PENDING)
  return records[id], t[EPOCH], t[SIZE], t[EXPIRES_AT]
end

-- As many as the limit and the size of one reply allow.
local function claim(queue)
  local ids = call('ZRANGE', prefix .. 'ready:' .. queue, 0, limit - #claimed - 1)
  local taken, before = 0, #claimed
  for i, found in ipairs(fields('task', ids)) do
    local id = ids[i]
    local record, epoch, size, expires_at = pending(id, found, queue)
    if record then
      room = room - size
      if room < 0 and #claimed > 0 then break end
      if expires_at ~= NEVER then
        drop('expiring', id)
        drop('overdue', id)
      end
      records[id] = claimed_record(record, (epoch < MAX_COUNT and epoch or MAX_COUNT) + 1, times, packed_worker)
      local n = #claimed
      claimed[n + 1] = id
      written[2 * n + 1], written[2 * n + 2] = id, records[id]
    end
    taken = i
  end
  if taken > 0 then call('ZREMRANGEBYRANK', prefix .. 'ready:' .. queue, 0, taken - 1) end
  if #claimed > before then
    count(queue, PENDING, before - #claimed)
    count(queue, RUNNING, #claimed - before)
  end
end

for _, queue in ipairs(open) do
  if #claimed < limit and room > 0 then claim(queue) end
end
in_slices('ZADD', 'lease', scored(lease_until, claimed))
in_slices('HSET', 'task', written)
write_scores()
-- Who finds less than it has room for is called for the next task.
if waits and #claimed < limit then
  even_if_full()
  call('HSET', prefix .. 'idle', worker, sender .. '/' .. table.concat(queues, '/') .. '/')
else
  call('HDEL', prefix .. 'idle', worker)
end
return rows(claimed)
