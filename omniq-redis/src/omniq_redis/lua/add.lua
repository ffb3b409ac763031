-- what several may share, ids, which of those kinds each is of, and sizes → a letter for what became of each
local kinds, ids, kind, sizes = unpack(args)
read_tasks(ids)
for _, shared in ipairs(kinds) do read_tasks(shared[6] or {}) end
local outcomes = {}
for i, id in ipairs(ids) do outcomes[i] = add_task(id, kinds[kind[i]], sizes[i]) end
write_new()
return table.concat(outcomes)
