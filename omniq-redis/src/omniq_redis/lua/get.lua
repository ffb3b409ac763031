-- needs common tasks
-- ids, filter, bodies, how many of the ids came before → a page of the rows of those that match, with bodies if asked
-- for; without a filter, nil for those that aren't there
local ids, where, bodies, before = unpack(args, 1, 4)

-- What has no record of ours is listed with the dead letters, and otherwise by what can be read of it.
local function matches(id, t)
  local states, queue, name, schedule, expired = unpack(where, 1, 5)
  if not records[id] then return false end
  local state, told = t and t[STATE] or ERROR, t or readable(id, records[id]) or {}
  return bit.band(states, 2 ^ state) ~= 0
    and (not queue or told[QUEUE] == queue)
    and (not name or told[NAME] == name)
    and (not schedule or told[SCHEDULE] == schedule)
    and (not expired or state <= WAITING and told[EXPIRES_AT] <= now)
end

read_records(ids)
local picked, total, after = {}, 0, nil
for i = (before or 0) + 1, #ids do
  local id, t = ids[i], task(ids[i])
  if not where or matches(id, t) then
    total = total + (t and bodies and t[SIZE] or 0)
    if total > MAX_BODIES and #picked > 0 then
      after = i - 1
      break
    end
    picked[#picked + 1] = id
  end
end
return packed_page((bodies and rows or rows_without_bodies)(picked), after)
