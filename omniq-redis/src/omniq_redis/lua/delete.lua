-- needs common tasks moving deleting
-- ids, the states that a task may have ended in → for each task whether it was deleted
local ids, states = unpack(args)
local gone, answers = {}, {}
read_records(ids)
for i, id in ipairs(ids) do
  local t = task(id)
  local goes = t and t[STATE] >= SUCCESS and t[AWAITED] == 0 and bit.band(states, 2 ^ t[STATE]) ~= 0
  if goes then
    forget(t)
    gone[#gone + 1] = id
  end
  answers[i] = goes and '1' or '0'
end
delete(gone)
return table.concat(answers)
