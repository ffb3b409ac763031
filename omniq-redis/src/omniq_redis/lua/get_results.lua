-- needs common
-- ids → the time, and the records of the first ids, nil for those that aren't there: as many as one reply should hold
local FEW = 25
local found, total = {}, 0
for first = 1, #args, FEW do
  for _, record in ipairs(fields('result', { unpack(args, first, math.min(first + FEW - 1, #args)) })) do
    found[#found + 1] = record and bytes(record) or NIL
    total = total + #found[#found]
  end
  if total > MAX_BODIES then break end
end
return '\146' .. pack(now) .. packed_list(found)
