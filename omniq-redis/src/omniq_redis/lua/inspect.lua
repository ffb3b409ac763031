-- needs common
-- name → 1 if there is a worker of that name: its next beat tells it that it was asked; else 0
local name = args[1]
even_if_full()
if not call('HGET', prefix .. 'worker', name) then return '0' end
call('HSET', prefix .. 'asked', name, 1)
return '1'
