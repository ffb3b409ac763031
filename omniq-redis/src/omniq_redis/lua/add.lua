-- needs common tasks moving adding
-- new tasks → a letter for what became of each
return table.concat(add_tasks(unpack(args)))
