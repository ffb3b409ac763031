-- needs common
-- name, leaving; and the worker's report as the body → 1 if it was asked since its last beat what it runs, else 0
local name, leaving = unpack(args)
even_if_full()
if leaving then
  call('HDEL', prefix .. 'worker', name)
else
  call('HSET', prefix .. 'worker', name, struct_pack('>d', now) .. ARGV[3])
end
return tostring(call('HDEL', prefix .. 'asked', name))
