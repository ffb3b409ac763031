-- needs common
-- schedule, newest_first, offset, limit → ids
local schedule, newest_first, offset, limit = unpack(args)
local command = newest_first and 'ZREVRANGE' or 'ZRANGE'
return packed_ids(call(command, prefix .. 'results_of:' .. schedule, offset, offset + limit - 1))
