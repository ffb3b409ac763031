-- needs common tasks moving adding schedules
-- id, if_version, next_run, task's id, kind and size → whether this call did it
local id, if_version, next_run, task_id, kind, size = unpack(args, 1, 6)
local stored = read_schedule(id)
if not stored or stored[3] ~= if_version then return '0' end
add_tasks({ kind }, { task_id }, { 1 }, { size })
write_schedule(id, stored[1], next_run or NEVER, if_version + 1, stored[4], stored[5])
return '1'
