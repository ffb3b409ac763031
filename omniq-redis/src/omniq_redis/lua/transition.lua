-- needs common tasks moving results
-- what several changes may share, ids, which of those kinds each is of, epochs, results → a letter for what became of
-- each, a capital if children wait for its task. Decides as omniq.storage.rules does.
local kinds, ids, kind, epochs_held, results = unpack(args)

for i, shared in ipairs(kinds) do
  local from_states, to, has_result, delay, attempted, crashed, fresh, if_expired, request_cancel, worker =
    unpack(shared, 1, 10)
  local special = delay or attempted or crashed or fresh or if_expired or request_cancel
  kinds[i] = {
    from_states = from_states, to = to, delay = delay, attempted = attempted, crashed = crashed, fresh = fresh,
    if_expired = if_expired, request_cancel = request_cancel, has_result = has_result, worker = worker,
    record_end = worker and struct_pack('>I2c0', #worker, worker), -- a record ends with the worker
    plain_end = to >= SUCCESS and bit.band(from_states, 2 ^ RUNNING) ~= 0 and not special,
  }
end

-- Most changes are a worker's that ends what it holds, and come by the hundred.
local end_times = struct_pack('>dd', now, NEVER)
local endings, ended_records = {}, {}

local function gather_ending(queue, name, state, id, awaited)
  local at = place_of(queue, name, state)
  local list = endings[at]
  if not list then
    list = { queue = queue, state = state, ids = {}, unawaited = {} }
    endings[at] = list
  end
  list.ids[#list.ids + 1] = id
  if awaited == 0 then list.unawaited[#list.unawaited + 1] = id end
end

-- The outcome if it is such a change, else nil.
local function end_at_once(id, epoch, change)
  local record = records[id]
  if not record or tasks[id] or not change.plain_end then return nil end
  local ok, state, held, awaited, queue, _, _, name, unique = pcall(struct_unpack, LOOK_TO_END, record)
  if not ok or state ~= RUNNING or held ~= epoch or unique ~= '' then return nil end
  if change.worker and record:sub(-#change.record_end) ~= change.record_end then return nil end
  gather_ending(queue, name, change.to, id, awaited)
  records[id] = ended_record(record, change.to, end_times)
  local n = #ended_records
  ended_records[n + 1], ended_records[n + 2] = id, records[id]
  return awaited > 0 and 'A' or 'a'
end

local function write_endings()
  for at, list in pairs(endings) do
    in_slices('ZREM', 'lease', list.ids)
    in_slices('ZADD', ordering_set(list.state), scored(now, list.unawaited))
    in_slices('ZADD', 'ids', scored(at, list.ids))
    count(list.queue, RUNNING, -#list.ids)
    count(list.queue, list.state, #list.ids)
  end
  in_slices('HSET', 'task', ended_records)
end

local function decide(t, epoch, change)
  if not t then return 'm' end
  if epoch and t[EPOCH] ~= epoch then return 'r' end
  if change.worker and t[WORKER] ~= change.worker then return 'r' end
  if bit.band(change.from_states, 2 ^ t[STATE]) == 0 then
    return epoch and change.to >= SUCCESS and t[STATE] == change.to and 'p' or 'r'
  end
  if change.if_expired and t[EXPIRES_AT] > now then return 'r' end
  return 'a'
end

local function charge(t, change)
  if change.fresh then
    t[RUN_AT], t[EXPIRES_AT], t[ATTEMPTS], t[CRASHES], t[CANCEL] = now, NEVER, 0, 0, 0
  else
    if change.delay then t[RUN_AT] = now + change.delay end
    if change.attempted then t[ATTEMPTS] = math.min(t[ATTEMPTS], MAX_COUNT) + 1 end
    if change.crashed then t[CRASHES] = math.min(t[CRASHES], MAX_COUNT) + 1 end
  end
end

local function give_key_up(t)
  if call('HGET', prefix .. 'unique', t[UNIQUE]) == t[ID] then call('HDEL', prefix .. 'unique', t[UNIQUE]) end
  t[UNIQUE] = ''
end

local function go(t, to)
  if t[STATE] == WAITING then
    for _, id in ipairs(distinct(parents_of(t))) do
      local parent = task(id)
      if parent then await(parent, -1) end
    end
  end
  t[LEASE_UNTIL] = NEVER
  if to == PENDING then
    t[STATE] = t[RUN_AT] <= now and PENDING or SCHEDULED
    t[FINISHED_AT], t[WORKER] = NEVER, ''
  else
    t[STATE], t[FINISHED_AT] = to, now
    if t[UNIQUE] ~= '' then give_key_up(t) end
  end
end

local function apply(id, epoch, change)
  local t = task(id)
  local outcome = decide(t, epoch, change)
  if outcome == 'a' and change.request_cancel then
    t[CANCEL] = 1
    touch(t)
  elseif outcome == 'a' then
    move(t)
    charge(t, change)
    go(t, change.to)
  end
  return t and t[AWAITED] > 0 and outcome:upper() or outcome
end

local results_seen = 0

local function settle(id, epoch, change)
  local outcome = end_at_once(id, epoch, change) or apply(id, epoch, change)
  if change.has_result then
    results_seen = results_seen + 1
    if outcome:lower() == 'a' then store_result(results_seen) else pass_over_result(results_seen) end
  end
  return outcome
end

even_if_full()
read_records(ids)
read_results(results)
local outcomes = {}
for i, id in ipairs(ids) do outcomes[i] = settle(id, epochs_held[i], kinds[kind[i]]) end
write_endings()
write_tasks()
tell_news()
publish_results()
return table.concat(outcomes)
