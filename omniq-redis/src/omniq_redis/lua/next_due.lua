-- needs common
-- queues → the seconds until each has something to claim, of those that have
local due = {}
for _, queue in ipairs(holding(args)) do
  local head = call('ZRANGE', prefix .. 'later:' .. queue, 0, 0, 'WITHSCORES')[2]
  if call('SISMEMBER', prefix .. 'paused', queue) == 0 then
    due[queue] = call('EXISTS', prefix .. 'ready:' .. queue) == 1 and 0 or head and tonumber(head) - now
  end
end
return next(due) and pack(due) or '\128' -- an empty table would be a list
