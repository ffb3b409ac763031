-- needs common tasks
-- worker → id and epoch of the tasks that it runs
local worker = args[1]
local found = {}
for _, id in ipairs(call('ZRANGE', prefix .. 'lease', 0, -1)) do
  local t = task(id)
  if t and t[STATE] == RUNNING and t[WORKER] == worker then found[#found + 1] = { id, t[EPOCH] } end
end
return pack(found)
