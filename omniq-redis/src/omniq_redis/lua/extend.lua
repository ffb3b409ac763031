-- needs common tasks moving
-- lease, ids, epochs, workers → a letter for each: the lease is lost, held, or held by a task that is to be cancelled
local lease, ids, epochs_held, workers = unpack(args)
read_records(ids)
local answers = {}
for i, id in ipairs(ids) do
  local t = task(id)
  if t and t[STATE] == RUNNING and t[EPOCH] == epochs_held[i] and t[WORKER] == workers[i] then
    t[LEASE_UNTIL] = now + lease
    touch(t)
    put('lease', id, t[LEASE_UNTIL])
    answers[i] = t[CANCEL] == 1 and 'c' or 'h'
  else
    answers[i] = 'l'
  end
end
even_if_full()
write_tasks()
return table.concat(answers)
