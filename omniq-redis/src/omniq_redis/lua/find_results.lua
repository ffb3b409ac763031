-- needs common
-- schedule, newest_first, limit; and how many ids came before, and how many are left to be found → a page of the ids of
-- its results that haven't expired
local schedule, newest_first, limit, after = unpack(args, 1, 4)
local before, left = unpack(after or { 0, limit })
local command = newest_first and 'ZREVRANGE' or 'ZRANGE'
local ids = call(command, prefix .. 'results_of:' .. schedule, before, before + SLICE - 1)
local expiries = #ids > 0 and call('ZMSCORE', prefix .. 'result_expiring', unpack(ids)) or {}
local found = {}
for i, id in ipairs(ids) do
  local at = expiries[i] and tonumber(expiries[i]) or NEVER
  if at > now and #found < left then found[#found + 1] = id end
end
local is_last = #ids < SLICE or #found == left
return packed_page(packed_ids(found), not is_last and { before + SLICE, left - #found } or nil)
