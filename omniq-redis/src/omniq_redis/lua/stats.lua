-- needs common
-- → queue, number of the state and count; the queues that are paused; and queue and when what is due for the longest
-- came due
local NUMBERS = { pending = 1, scheduled = 2, waiting = 3, running = 4, success = 5, error = 6, cancelled = 7, expired = 8 }
-- The scores of tasks that are ready, by priority: see `score`.
local PRIORITY_SPAN, PRIORITIES = 2 ^ 42, 201

local function oldest_ready(queue)
  local from, oldest = '-inf', NEVER
  for _ = 1, PRIORITIES do
    local found = call('ZRANGEBYSCORE', prefix .. 'ready:' .. queue, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if not found then break end
    local level = math.floor(tonumber(found) / PRIORITY_SPAN)
    oldest = math.min(oldest, (tonumber(found) - level * PRIORITY_SPAN) / 1000)
    from = text((level + 1) * PRIORITY_SPAN)
  end
  return oldest
end

local function oldest_due(queue)
  local later = call('ZRANGEBYSCORE', prefix .. 'later:' .. queue, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  return math.min(oldest_ready(queue), tonumber(later) or NEVER)
end

local all, counts, due, seen = call('HGETALL', prefix .. 'count'), {}, {}, {}
for i = 1, #all, 2 do
  local queue, name = all[i]:match('^(%S+) (%S+)$')
  local state, count = NUMBERS[name], all[i + 1]:match('^%d+$')
  if state and count and #count < 16 then -- else it is nobody's
    counts[#counts + 1] = '\147' .. bytes(queue) .. pack(state) .. pack(tonumber(count))
  end
  if (name == 'pending' or name == 'scheduled') and not seen[queue] then
    seen[queue] = true
    local at = oldest_due(queue)
    if at < NEVER then due[#due + 1] = '\146' .. bytes(queue) .. pack(at) end
  end
end
return '\147' .. packed_list(counts) .. packed_ids(call('SMEMBERS', prefix .. 'paused')) .. packed_list(due)
