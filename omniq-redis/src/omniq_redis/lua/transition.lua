-- what several changes may share, ids, which of those kinds each is of, epochs, results → a letter for what became of
-- each, a capital if children wait for its task. Decides as omniq.storage.rules does.
local kinds, ids, kind, epochs_wanted, results = unpack(args)

local function decide(t, epoch, from_states, to, if_expired)
  if not t then return 'm' end
  if epoch and t[EPOCH] ~= epoch then return 'r' end
  if bit.band(from_states, 2 ^ t[STATE]) == 0 then
    return epoch and to >= SUCCESS and t[STATE] == to and 'p' or 'r'
  end
  if if_expired and t[EXPIRES_AT] > now then return 'r' end
  return 'a'
end

local function charge(t, delay, attempted, crashed)
  if delay then t[RUN_AT] = now + delay end
  if attempted then t[ATTEMPTS] = t[ATTEMPTS] + 1 end
  if crashed then t[CRASHES] = t[CRASHES] + 1 end
end

local function start_afresh(t)
  t[RUN_AT], t[EXPIRES_AT], t[ATTEMPTS], t[CRASHES], t[CANCEL] = now, NEVER, 0, 0, 0
end

local function go(t, to)
  if t[STATE] == WAITING then
    each_parent(t, function(parent) await(parent, -1) end)
  end
  t[LEASE_UNTIL] = NEVER
  if to == PENDING then
    t[STATE] = t[RUN_AT] <= now and PENDING or SCHEDULED
    t[FINISHED_AT], t[WORKER] = NEVER, ''
  else
    t[STATE], t[FINISHED_AT] = to, now
  end
end

local results_seen = 0

local function apply(t, epoch, shared)
  local from_states, to, delay, attempted, crashed, fresh, if_expired, request_cancel, has_result = unpack(shared, 1, 9)
  local outcome = decide(t, epoch, from_states, to, if_expired)
  if has_result then
    results_seen = results_seen + 1
    if outcome == 'a' then store_result(results_seen) else next_body(result_sizes[results_seen]) end
  end
  if outcome == 'a' and request_cancel then
    t[CANCEL] = 1
    touch(t)
  elseif outcome == 'a' then
    move(t)
    if fresh then start_afresh(t) else charge(t, delay, attempted, crashed) end
    go(t, to)
  end
  return t and t[AWAITED] > 0 and outcome:upper() or outcome
end

read_tasks(ids)
read_results(results)
local answers = {}
for i, id in ipairs(ids) do answers[i] = apply(tasks[id], epochs_wanted[i], kinds[kind[i]]) end
write_tasks()
publish_results()
return table.concat(answers)
