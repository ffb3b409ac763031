-- needs common results
-- ids, the sizes of the old bodies and of the new ones → for each result whether its body was replaced
local ids, old_sizes, sizes = unpack(args)
local new_records, answers = {}, {}
for i, record in ipairs(fields('result', ids)) do
  local old, body = next_body(old_sizes[i]), next_body(sizes[i])
  local position = record and select(7, struct_unpack(RESULT, record))
  answers[i] = '0'
  if record and record:sub(position) == old then
    local n = #new_records
    new_records[n + 1], new_records[n + 2] = ids[i], record:sub(1, position - 1) .. body
    answers[i] = '1'
  end
end
in_slices('HSET', 'result', new_records)
return table.concat(answers)
