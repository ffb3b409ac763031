-- limit → rows of the tasks that were taken back, without bodies
local ids = call('ZRANGEBYSCORE', prefix .. 'lease', '-inf', now, 'LIMIT', 0, args[1])
read_records(ids)
for _, id in ipairs(ids) do
  local t = task(id)
  move(t)
  t[STATE], t[CRASHES], t[LEASE_UNTIL], t[WORKER] = PENDING, t[CRASHES] + 1, NEVER, ''
end
write_tasks()
tell_news()
return rows_without_bodies(ids)
