-- needs common
-- seconds or nil → name and report of the workers that were seen; with seconds, forgets those that weren't for so long
-- instead
local older_than = args[1]
local gone, found, name = {}, {}, nil
for i, value in ipairs(call('HGETALL', prefix .. 'worker')) do
  if i % 2 == 1 then
    name = value
  elseif not older_than then
    found[#found + 1] = '\146' .. bytes(name) .. bytes(value)
  elseif seen_at(value) <= now - older_than then
    gone[#gone + 1] = name
  end
end
in_slices('HDEL', 'worker', gone)
return packed_list(found)
