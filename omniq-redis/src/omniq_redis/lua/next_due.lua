-- queues → for each the seconds until it has something to claim, false if there is nothing
local answers = {}
for i, queue in ipairs(args) do
  local head = call('ZRANGE', prefix .. 'later:' .. queue, 0, 0, 'WITHSCORES')[2]
  if call('SISMEMBER', prefix .. 'paused', queue) == 1 then
    answers[i] = false
  elseif call('EXISTS', prefix .. 'ready:' .. queue) == 1 then
    answers[i] = 0
  else
    answers[i] = head and tonumber(head) - now or false
  end
end
return pack(answers)
