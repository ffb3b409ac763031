-- needs common
-- ids, the last child that was told and the number of its parent → a page of children: the number of their parent, from
-- 0, and their ids
local ids, after = unpack(args, 1, 2)
local number, last = unpack(after or { 0 })
local room = 5000
local families = {}
while room > 0 and number < #ids do
  local first = last and '(' .. last or '-'
  local children = call('ZRANGEBYLEX', prefix .. 'children:' .. ids[number + 1], first, '+', 'LIMIT', 0, room)
  families[#families + 1] = '\146' .. pack(number) .. packed_ids(children)
  room = room - #children
  after = { number, children[#children] }
  number, last = number + 1, nil
end
return packed_page(packed_list(families), room == 0 and after or nil)
