-- needs common schedules
-- ids, within, how many came before → a page of id and record of those ids, or of those due within so many seconds, or
-- of all
local ids, within, before = unpack(args, 1, 3)
local FEW = 500
local first, is_listed = before or 0, within or not ids
if within then
  ids = call('ZRANGEBYSCORE', prefix .. 'slot', '-inf', now + within, 'LIMIT', first, FEW)
elseif is_listed then
  ids = call('ZRANGE', prefix .. 'schedules', first, first + FEW - 1)
end
local items = {}
for i, record in ipairs(fields('schedule', ids)) do
  if record then items[#items + 1] = '\146' .. bytes(ids[i]) .. bytes(record) end
end
return packed_page(packed_list(items), is_listed and #ids == FEW and first + FEW or nil)
