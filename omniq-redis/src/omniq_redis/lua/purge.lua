-- needs common tasks moving
-- older_than, limit → how many tasks were deleted
local older_than, limit = unpack(args)
local ids = call('ZRANGEBYSCORE', prefix .. 'ended', '-inf', now - older_than, 'LIMIT', 0, limit)
read_records(ids)
local gone = {}
for _, id in ipairs(ids) do
  local t = task(id)
  if not t or t[STATE] < SUCCESS then drop('ended', id) end -- it isn't its place
  if t and t[STATE] >= SUCCESS then
    leave(t)
    if t[SCHEDULE] ~= '' then drop('tasks_of:' .. t[SCHEDULE], id) end
    for _, parent in ipairs(parents_of(t)) do drop('children:' .. parent, id) end
  end
  if not t or t[STATE] >= SUCCESS then gone[#gone + 1] = id end
end
ids = gone
write_tasks()
in_slices('ZREM', 'ids', ids)
in_slices('HDEL', 'task', ids)
in_slices('HDEL', 'body', ids)
for _, id in ipairs(ids) do call('UNLINK', prefix .. 'children:' .. id) end
return tostring(#ids)
