-- needs common schedules
-- id, queue, next_run, last_run, paused, version, if_version → whether it was written
local id, queue, next_run, last_run, paused, version, if_version = unpack(args, 1, 7)
local stored = read_schedule(id)
if (stored and stored[2]) ~= if_version then return '0' end
if if_version then even_if_full() end -- to pause it, say
write_schedule(id, paused and 1 or 0, (if_version or version) + 1, next_run or NEVER, last_run or NEVER, queue, ARGV[3])
write_scores()
return '1'
