-- needs common
-- cursor → the next one, "0" at the end; the keys of this project that were found on the way are gone
even_if_full()
local cursor, found = unpack(redis.call('SCAN', args[1], 'MATCH', prefix .. '*', 'COUNT', SLICE))
for first = 1, #found, SLICE do
  redis.call('UNLINK', unpack(found, first, math.min(first + SLICE - 1, #found)))
end
return cursor
