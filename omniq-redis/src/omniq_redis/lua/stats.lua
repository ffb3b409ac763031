-- needs common
-- → the counts by "queue state", flat, the queues that are paused, and by queue, flat, when what is due for the longest
-- came due
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

local counts, due, seen = call('HGETALL', prefix .. 'count'), {}, {}
for i = 1, #counts, 2 do
  local queue, state = counts[i]:match('^(%S+) (%S+)$')
  if (state == 'pending' or state == 'scheduled') and not seen[queue] then
    seen[queue] = true
    local at = oldest_due(queue)
    if at < NEVER then
      due[#due + 1] = queue
      due[#due + 1] = text(at)
    end
  end
end
return '\147' .. packed_ids(counts) .. packed_ids(call('SMEMBERS', prefix .. 'paused')) .. packed_ids(due)
