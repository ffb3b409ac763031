-- needs common tasks moving
-- id, queue, epoch, worker, whether to set aside → ok. A task that was claimed just now, and whose record can't be read,
-- gets one that can, so that the claim can be ended; or becomes a dead letter, where nobody could name it.
local id, queue, epoch, worker, set_aside = unpack(args)
local lease_until = call('ZSCORE', prefix .. 'lease', id)
if not lease_until then return 'ok' end
records[id] = true -- there is one
local t = stand_in(id, queue, RUNNING)
t[EPOCH], t[ATTEMPTS], t[LEASE_UNTIL], t[CLAIMED_AT], t[WORKER] = epoch, 0, tonumber(lease_until), now, worker
if set_aside then
  move(t)
  t[STATE], t[FINISHED_AT], t[LEASE_UNTIL] = ERROR, now, NEVER
else
  touch(t)
end
write_tasks()
return 'ok'
