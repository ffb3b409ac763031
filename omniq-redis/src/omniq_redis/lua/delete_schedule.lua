-- needs common
-- id → whether it was there
local id = args[1]
drop('schedules', id)
drop('slot', id)
write_scores()
return tostring(call('HDEL', prefix .. 'schedule', id))
