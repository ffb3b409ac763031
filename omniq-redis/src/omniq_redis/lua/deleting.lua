-- Deleting tasks that have ended, with all that leads to them.
local function forget(t)
  leave(t)
  if t[SCHEDULE] ~= '' then drop('tasks_of:' .. t[SCHEDULE], t[ID]) end
  for _, parent in ipairs(parents_of(t)) do drop('children:' .. parent, t[ID]) end
end

local function delete(ids)
  write_tasks()
  in_slices('ZREM', 'ids', ids)
  in_slices('HDEL', 'task', ids)
  in_slices('HDEL', 'body', ids)
  for _, id in ipairs(ids) do call('UNLINK', prefix .. 'children:' .. id) end
end
