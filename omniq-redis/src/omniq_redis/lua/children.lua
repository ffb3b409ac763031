-- needs common
-- ids, cursor, limit → for each task up to `limit` of its children that come after the cursor
local ids, cursor, limit = unpack(args, 1, 3)
local first = cursor and '(' .. cursor or '-'
local families = {}
for i, id in ipairs(ids) do
  families[i] = packed_ids(call('ZRANGEBYLEX', prefix .. 'children:' .. id, first, '+', 'LIMIT', 0, limit))
end
return packed_list(families)
