-- needs common tasks moving
-- ids, epochs, workers, ends of leases → rows of the tasks that are still under these leases, and were taken back,
-- without bodies
local ids, epochs_seen, workers, ends = unpack(args)
read_records(ids)
local seen = {}

-- A worker that was seen after the lease ran out is alive: no crash is charged.
local function is_alive(worker, lease_until)
  if seen[worker] == nil then seen[worker] = call('HGET', prefix .. 'worker', worker) end
  return seen[worker] and seen_at(seen[worker]) > lease_until
end

-- The task, if it is still under that lease; a stand-in, if its record can't be read.
local function unrenewed(id, epoch, worker, lease_until)
  local ends_at, t = math.min(now, lease_until), task(id)
  if not t then
    local at = tonumber(call('ZSCORE', prefix .. 'lease', id))
    return at and at <= ends_at and stand_in(id, queue_in(records[id]), RUNNING) or nil
  end
  if t[STATE] ~= RUNNING then
    drop('lease', id) -- it isn't its place
    return nil
  end
  return t[EPOCH] == epoch and t[WORKER] == worker and t[LEASE_UNTIL] <= ends_at and t or nil
end

local lapsed = {}
for i, id in ipairs(ids) do
  local t = unrenewed(id, epochs_seen[i], workers[i], ends[i])
  if t then
    lapsed[#lapsed + 1] = id
    move(t)
    local charged = is_alive(t[WORKER], t[LEASE_UNTIL]) and 0 or 1
    t[STATE], t[CRASHES], t[LEASE_UNTIL], t[WORKER] = PENDING, math.min(t[CRASHES], MAX_COUNT) + charged, NEVER, ''
  end
end
write_tasks()
tell_news()
return rows_without_bodies(lapsed)
