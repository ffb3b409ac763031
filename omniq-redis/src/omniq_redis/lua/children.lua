-- needs common
-- ids, cursor → for the first of these tasks, or all, its children, those of the first one only beyond the cursor; and
-- whether the last one may have more, since this is as many as one call reads
local ids, cursor = unpack(args, 1, 2)
local room = 5000
local first, families = cursor and '(' .. cursor or '-', {}
for i, id in ipairs(ids) do
  local children = call('ZRANGEBYLEX', prefix .. 'children:' .. id, first, '+', 'LIMIT', 0, room)
  families[i] = packed_ids(children)
  first, room = '-', room - #children
  if room == 0 then break end
end
return '\146' .. packed_list(families) .. pack(room == 0)
