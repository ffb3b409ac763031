-- needs common tasks moving
-- ids, queues, epochs, worker, whether to set aside → ok. Tasks that were claimed just now, and whose records can't be
-- read, get records that can, so that the claims can be ended; or become dead letters, where nobody could name them.
local ids, queues, epochs_held, worker, set_aside = unpack(args)
for i, id in ipairs(ids) do
  local lease_until = call('ZSCORE', prefix .. 'lease', id)
  if lease_until then
    records[id] = true -- there is one
    local t = stand_in(id, queues[i], RUNNING)
    t[EPOCH], t[ATTEMPTS], t[LEASE_UNTIL], t[CLAIMED_AT], t[WORKER] = epochs_held[i], 0, tonumber(lease_until), now, worker
    if set_aside then
      move(t)
      t[STATE], t[FINISHED_AT], t[LEASE_UNTIL] = ERROR, now, NEVER
    else
      touch(t)
    end
  end
end
write_tasks()
return 'ok'
