-- Schedules are in the hash `schedule`; the set `schedules` has all, and `slot` the active ones by their next slot.
local SCHEDULE_RECORD = '>BI8ddI2c0'

-- Whether it is paused, its version, next slot, last slot, queue and body; of a damaged one, the version that it reads as.
local function read_schedule(id)
  local record = call('HGET', prefix .. 'schedule', id)
  if not record then return nil end
  local ok, paused, version, next_run, last_run, queue, position = pcall(struct_unpack, SCHEDULE_RECORD, record)
  if not ok then return { 1, 0, NEVER, NEVER, '', '' } end
  return { paused, version, next_run, last_run, queue, record:sub(position) }
end

-- Its place among the others is written by `write_scores`.
local function write_schedule(id, paused, version, next_run, last_run, queue, body)
  put('schedules', id, 0)
  put('slot', id, paused == 0 and next_run < NEVER and next_run)
  local record = struct_pack(SCHEDULE_RECORD, paused, version, next_run, last_run, #queue, queue)
  call('HSET', prefix .. 'schedule', id, record .. body)
end
