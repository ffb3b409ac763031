-- seconds or nil → those workers that were seen; with seconds, forgets those that weren't for so long instead
local older_than = args[1]
local gone, found = {}, {}
for i, value in ipairs(call('HGETALL', prefix .. 'worker')) do
  if i % 2 == 1 then
    found[#found + 1] = value
  elseif older_than and struct_unpack('>d', value) <= now - older_than then
    gone[#gone + 1] = found[#found]
  else
    found[#found] = bytes(value)
  end
end
if older_than then
  in_slices('HDEL', 'worker', gone)
  return ''
end
return packed_list(found)
