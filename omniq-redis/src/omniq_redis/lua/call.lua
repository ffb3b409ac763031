-- needs common tasks moving
-- a queue for which a worker was called that has gone: calls the next one
local queue = args
if not call_idle(queue, 1) then heard[1] = { queue, 0 } end
tell_news()
return 'ok'
