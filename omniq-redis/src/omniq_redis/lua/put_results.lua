-- needs common results
-- results → for each whether it was stored
read_results(args)
local answers = {}
for i in ipairs(result_ids) do answers[i] = store_result(i) and '1' or '0' end
publish_results()
return table.concat(answers)
