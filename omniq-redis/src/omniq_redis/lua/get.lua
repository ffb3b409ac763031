-- needs common tasks
-- ids, filter, bodies, how many of the ids came before → a page of the rows of those that match, with bodies if asked
-- for; without a filter, nil for those that aren't there
local ids, where, bodies, before = unpack(args, 1, 4)

-- What has no record of ours is listed with the dead letters.
local function matches(id, t)
  local states, queue, name, schedule, expired = unpack(where, 1, 5)
  if not t then
    return records[id] and bit.band(states, 2 ^ ERROR) ~= 0 and not (queue or name or schedule or expired)
  end
  return t
    and bit.band(states, 2 ^ t[STATE]) ~= 0
    and (not queue or t[QUEUE] == queue)
    and (not name or t[NAME] == name)
    and (not schedule or t[SCHEDULE] == schedule)
    and (not expired or t[STATE] <= WAITING and t[EXPIRES_AT] <= now)
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
