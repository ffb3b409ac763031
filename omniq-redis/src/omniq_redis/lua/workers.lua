-- needs common
-- seconds or nil → name, time and report of the workers that were seen; with seconds, forgets instead those that weren't
-- seen for so long
local older_than = args[1]
local gone, found, name = {}, {}, nil
for i, value in ipairs(call('HGETALL', prefix .. 'worker')) do
  if i % 2 == 1 then
    name = value
  elseif not older_than then
    found[#found + 1] = '\147' .. bytes(name) .. pack(seen_at(value)) .. bytes(value:sub(9))
  elseif seen_at(value) <= now - older_than then
    gone[#gone + 1] = name
  end
end
in_slices('HDEL', 'worker', gone)
in_slices('HDEL', 'asked', gone)
return packed_list(found)
