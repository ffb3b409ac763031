-- needs common tasks moving adding schedules
-- ids, versions, slots, next slots, new tasks → for each schedule whether this call fired it
local ids, versions, slots, next_runs, new_tasks = unpack(args)
local kinds, task_ids, kind, sizes = unpack(new_tasks)
local stored, fires = {}, {}
for i, id in ipairs(ids) do
  stored[i] = read_schedule(id)
  fires[i] = stored[i] ~= nil and stored[i][2] == versions[i]
end
add_tasks(kinds, task_ids, kind, sizes, fires)
local answers = {}
for i, id in ipairs(ids) do
  local s = stored[i]
  if fires[i] then write_schedule(id, s[1], versions[i] + 1, next_runs[i] or NEVER, slots[i], s[5], s[6]) end
  answers[i] = fires[i] and '1' or '0'
end
write_scores()
return table.concat(answers)
