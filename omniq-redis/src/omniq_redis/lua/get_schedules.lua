-- needs common schedules
-- ids, within, offset, limit → id and record of those ids, or of a page of those due within so many seconds, or of all
local ids, within, offset, limit = unpack(args, 1, 4)
if within then
  ids = call('ZRANGEBYSCORE', prefix .. 'slot', '-inf', now + within, 'LIMIT', offset, limit)
elseif not ids then
  ids = call('ZRANGE', prefix .. 'schedules', offset, offset + limit - 1)
end
local items = {}
for i, record in ipairs(fields('schedule', ids)) do
  items[i] = record and '\146' .. bytes(ids[i]) .. bytes(record) or NIL
end
return packed_list(items)
