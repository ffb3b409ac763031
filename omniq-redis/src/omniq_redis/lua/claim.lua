-- queues, limit, lease, worker → rows of the tasks claimed
local queues, limit, lease, worker = unpack(args)
local PROMOTED = 500

-- At least as many as are claimed, since a task that has just come due may have the highest priority.
local budget = math.max(limit, PROMOTED)
local function promote(queue)
  local ids = call('ZRANGEBYSCORE', prefix .. 'later:' .. queue, '-inf', now, 'LIMIT', 0, budget)
  budget = budget - #ids
  read_tasks(ids)
  for _, id in ipairs(ids) do
    move(tasks[id])
    tasks[id][STATE] = PENDING
  end
end

local open = {}
for _, queue in ipairs(queues) do
  if call('SISMEMBER', prefix .. 'paused', queue) == 0 then
    open[#open + 1] = queue
    promote(queue)
  end
end
write_tasks(true) -- who waits has set its alarm for what has come due

local ids = {}
for _, queue in ipairs(open) do
  if #ids < limit then
    for _, id in ipairs(call('ZRANGE', prefix .. 'ready:' .. queue, 0, limit - #ids - 1)) do ids[#ids + 1] = id end
  end
end
read_tasks(ids)
ids = affordable(ids)
for _, id in ipairs(ids) do
  local t = tasks[id]
  move(t)
  t[STATE], t[EPOCH], t[CLAIMED_AT], t[LEASE_UNTIL], t[WORKER] = RUNNING, t[EPOCH] + 1, now, now + lease, worker
end
write_tasks()
return rows(ids)
