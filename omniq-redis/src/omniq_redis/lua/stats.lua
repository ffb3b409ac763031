-- needs common
-- → the counts by "queue state", flat, and the queues that are paused
return '\146' .. packed_ids(call('HGETALL', prefix .. 'count')) .. packed_ids(call('SMEMBERS', prefix .. 'paused'))
