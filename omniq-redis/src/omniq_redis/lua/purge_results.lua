-- needs common results
-- limit → how many expired results were deleted
local ids = call('ZRANGEBYSCORE', prefix .. 'result_expiring', '-inf', now, 'LIMIT', 0, args[1])
for i, record in ipairs(fields('result', ids)) do
  local ok, _, _, _, _, _, schedule = pcall(struct_unpack, RESULT, record)
  if ok and schedule ~= '' then drop('results_of:' .. schedule, ids[i]) end
end
write_scores()
in_slices('ZREM', 'result_expiring', ids)
in_slices('HDEL', 'result', ids)
return tostring(#ids)
