-- needs common tasks moving
-- the lease that came last, as its end (false if there is none) and id, limit → id, epoch, worker and end, as text, of
-- the leases that have run out, in order, after that one. Tasks in no set are put into theirs, too.
local past, past_id, limit = unpack(args)

for _, id in ipairs(unlisted()) do
  local t = task(id)
  if t then
    put('ids', id, place(t))
    move(t)
  else
    t = stand_in(id, queue_in(records[id]), PENDING)
    touch(t)
    put(ordering_set(PENDING, t[QUEUE]), id, score(t))
  end
end
write_tasks()

-- A task whose record can't be read has no epoch and no worker: by its place among the leases it is told, and taken back.
local function row(id, ends)
  local t = task(id)
  return '\148' .. bytes(id) .. pack(t and t[EPOCH] or 0) .. bytes(t and t[WORKER] or '') .. pack(ends)
end

local from = past and text(past) or '-inf'
local found, offset = {}, 0
while #found < limit do
  local page = call('ZRANGEBYSCORE', prefix .. 'lease', from, now, 'WITHSCORES', 'LIMIT', offset, limit)
  if #page == 0 then break end
  offset = offset + #page / 2
  for i = 1, #page, 2 do
    local id, ends = page[i], page[i + 1]
    local is_after = not past or tonumber(ends) > past or id > past_id
    if is_after and #found < limit then found[#found + 1] = row(id, ends) end
  end
end
return packed_list(found)
