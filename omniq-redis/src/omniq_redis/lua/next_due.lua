-- queues → for each the seconds until it has something to claim, false if there is nothing
local due = {}
for _, queue in ipairs(holding(args)) do
  local head = call('ZRANGE', prefix .. 'later:' .. queue, 0, 0, 'WITHSCORES')[2]
  if call('SISMEMBER', prefix .. 'paused', queue) == 1 then
    due[queue] = false
  elseif call('EXISTS', prefix .. 'ready:' .. queue) == 1 then
    due[queue] = 0
  else
    due[queue] = head and tonumber(head) - now
  end
end
local answers = {}
for i, queue in ipairs(args) do answers[i] = due[queue] or false end
return pack(answers)
