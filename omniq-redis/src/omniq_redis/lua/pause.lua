-- needs common
-- queue, paused
local queue, paused = unpack(args)
even_if_full()
if paused then
  call('SADD', prefix .. 'paused', queue)
else
  call('SREM', prefix .. 'paused', queue)
  call('PUBLISH', prefix .. 'news', pack({ sender, { { queue, 0 } } }))
end
return 'ok'
