-- Results are in the hash `result`. A call has them as lists: what several may share, ids, which of those kinds each
-- is of, epochs, and the sizes of the bodies.
local RESULT = '>I4BdddI2c0'
-- That no claim reaches.
local MAX_EPOCH = 2 ^ 30
-- The status of what isn't the task's end.
local PROGRESS = 4
local AFTER_EPOCH = '>BdddI2c0'

local result_kinds, result_ids, result_kind, result_epochs, result_sizes
-- Of the stored ones, by id.
local epochs, schedules, are_final = {}, {}, {}
local stored, written_results, expiries = {}, {}, {}

local function prepared_result(kind)
  local status, ttl, schedule = unpack(kind, 1, 3)
  return {
    is_final = status ~= PROGRESS,
    record = struct_pack(AFTER_EPOCH, status, now, ttl or NEVER, now + (ttl or NEVER), #schedule, schedule),
    expires = ttl and text(now + ttl),
    schedule = schedule,
  }
end

local function read_results(batch)
  result_kinds, result_ids, result_kind, result_epochs, result_sizes = unpack(batch)
  for i, kind in ipairs(result_kinds) do result_kinds[i] = prepared_result(kind) end
  for i, record in ipairs(fields('result', result_ids)) do
    if record then
      local id = result_ids[i]
      local ok, epoch, status, _, _, _, schedule = pcall(struct_unpack, RESULT, record)
      if not ok or epoch > MAX_EPOCH then epoch, schedule = 0, '' end -- any result is better
      epochs[id], schedules[id], are_final[id] = epoch, schedule, ok and status ~= PROGRESS
    end
  end
end

-- Whether the stored result is replaced: not by one of an older claim, nor a final one by progress.
local function gives_way(id, epoch, is_final)
  return epochs[id] < epoch or epochs[id] == epoch and (is_final or not are_final[id])
end

-- Whether the result of that number was stored.
local function store_result(number)
  local id, epoch, kind = result_ids[number], result_epochs[number], result_kinds[result_kind[number]]
  local body = next_body(result_sizes[number])
  if epochs[id] then
    if not gives_way(id, epoch, kind.is_final) then return false end
    drop('result_expiring', id)
    if schedules[id] ~= '' then drop('results_of:' .. schedules[id], id) end
  end
  local n = #written_results
  written_results[n + 1], written_results[n + 2] = id, struct_pack('>I4', epoch) .. kind.record .. body
  if kind.expires then
    n = #expiries
    expiries[n + 1], expiries[n + 2] = kind.expires, id
  end
  if kind.schedule ~= '' then put('results_of:' .. kind.schedule, id, now) end
  stored[#stored + 1] = id
  return true
end

local function pass_over_result(number) next_body(result_sizes[number]) end

local function publish_results()
  in_slices('HSET', 'result', written_results)
  write_scores() -- of results that gave way
  in_slices('ZADD', 'result_expiring', expiries)
  if #stored > 0 then call('PUBLISH', prefix .. 'results', pack(stored)) end
end
