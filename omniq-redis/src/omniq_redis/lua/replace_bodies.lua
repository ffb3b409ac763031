-- needs common tasks
-- ids, the sizes of the old bodies and of the new ones → for each task whether its body was replaced
local ids, old_sizes, sizes = unpack(args)
local held = fields('body', ids)
read_records(ids)
local new_records, new_bodies, answers = {}, {}, {}
for i, id in ipairs(ids) do
  local old, body, t = next_body(old_sizes[i]), next_body(sizes[i]), task(id)
  answers[i] = '0'
  if t and held[i] == old then
    t[SIZE] = #body
    local n = #new_records
    new_records[n + 1], new_records[n + 2] = id, record_of(t)
    new_bodies[n + 1], new_bodies[n + 2] = id, body
    answers[i] = '1'
  end
end
in_slices('HSET', 'task', new_records)
in_slices('HSET', 'body', new_bodies)
return table.concat(answers)
