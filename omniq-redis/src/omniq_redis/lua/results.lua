-- Results are in the hash `result`. A call has them as lists: what several may share, ids, which of those kinds each
-- is of, epochs, and the sizes of the bodies.
local RESULT = '>I4BdddI2c0'
-- That no claim reaches.
local MAX_EPOCH = 2 ^ 30
local AFTER_EPOCH = '>BdddI2c0'

local result_kinds, result_ids, result_kind, result_epochs, result_sizes
local epochs, schedules = {}, {}
local stored, written_results, expiries = {}, {}, {}

local function prepared_result(kind)
  local status, ttl, schedule = unpack(kind, 1, 3)
  return {
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
      local ok, epoch, _, _, _, _, schedule = pcall(struct_unpack, RESULT, record)
      if not ok or epoch > MAX_EPOCH then epoch, schedule = 0, '' end -- any result is better
      epochs[id], schedules[id] = epoch, schedule
    end
  end
end

local function write_results()
  in_slices('HSET', 'result', written_results)
  in_slices('ZADD', 'result_expiring', expiries)
  write_scores()
  written_results, expiries = {}, {}
end

local function forget_result(id)
  write_results() -- it may be of this very call
  drop('result_expiring', id)
  if schedules[id] ~= '' then drop('results_of:' .. schedules[id], id) end
  write_scores()
end

-- Whether the result of that place was stored: that of an older claim never replaces that of a newer one.
local function store_result(place)
  local id, epoch, kind = result_ids[place], result_epochs[place], result_kinds[result_kind[place]]
  local body = next_body(result_sizes[place])
  if epochs[id] then
    if epochs[id] > epoch then return false end
    forget_result(id)
  end
  epochs[id], schedules[id] = epoch, kind.schedule
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

local function pass_over_result(place) next_body(result_sizes[place]) end

local function publish_results()
  write_results()
  if #stored > 0 then call('PUBLISH', prefix .. 'news', pack({ sender, {}, stored })) end
end
