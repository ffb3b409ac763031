-- needs common tasks moving deleting
-- older_than, states, limit → how many tasks were deleted
local older_than, states, limit = unpack(args)
local gone = {}

-- What is in the set of another state than its own isn't in its place.
local function purge(state, at_most)
  local key = ordering_set(state)
  local ids = call('ZRANGEBYSCORE', prefix .. key, '-inf', now - older_than, 'LIMIT', 0, at_most)
  read_records(ids)
  for _, id in ipairs(ids) do
    local t = task(id)
    if not t or t[STATE] ~= state then drop(key, id) end
    if t and t[STATE] == state then forget(t) end
    if not t or t[STATE] == state then gone[#gone + 1] = id end
  end
end

for state = SUCCESS, #NAMES do
  if bit.band(states, 2 ^ state) ~= 0 and #gone < limit then purge(state, limit - #gone) end
end
delete(gone)
return tostring(#gone)
