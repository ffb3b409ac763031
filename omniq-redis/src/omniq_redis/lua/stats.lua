-- → the counts by "queue state", flat, and the queues that are paused
return pack({ call('HGETALL', prefix .. 'count'), call('SMEMBERS', prefix .. 'paused') })
