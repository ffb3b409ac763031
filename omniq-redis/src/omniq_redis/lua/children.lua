-- ids, cursor, limit → for each task up to `limit` of its children that come after the cursor
local ids, cursor, limit = unpack(args, 1, 3)
local families = {}
for i, id in ipairs(ids) do
  families[i] = call('ZRANGEBYLEX', prefix .. 'children:' .. id, cursor and '(' .. cursor or '-', '+', 'LIMIT', 0, limit)
end
return pack(families)
