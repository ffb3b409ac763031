-- limit → rows of the tasks that were taken back, without bodies. Tasks in no set are put into theirs, too.
local ids = call('ZRANGEBYSCORE', prefix .. 'lease', '-inf', now, 'LIMIT', 0, args[1])
read_records(ids)

-- The queue in a record that is damaged elsewhere.
local function queue_in(record)
  local ok, queue = pcall(struct_unpack, '>I2c0', record, 72)
  return ok and queue:match('^[%w_.-]+$') or 'default'
end

for _, id in ipairs(unlisted()) do
  put('ids', id, 0)
  local t = task(id)
  if t then
    move(t)
  else
    t = stand_in(id, queue_in(records[id] or ''), PENDING)
    touch(t)
    put(ordering_set(PENDING, t[QUEUE]), id, score(t))
  end
end

local lapsed = {}
for _, id in ipairs(ids) do
  local t = task(id) or stand_in(id, queue_in(records[id] or ''), RUNNING)
  if t[STATE] == RUNNING then
    lapsed[#lapsed + 1] = id
  else
    drop('lease', id) -- it isn't its place
  end
end
ids = lapsed
for _, id in ipairs(ids) do
  local t = task(id)
  move(t)
  t[STATE], t[CRASHES], t[LEASE_UNTIL], t[WORKER] = PENDING, math.min(t[CRASHES], MAX_COUNT) + 1, NEVER, ''
end
write_tasks()
tell_news()
return rows_without_bodies(ids)
