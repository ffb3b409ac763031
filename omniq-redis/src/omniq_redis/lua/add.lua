-- needs common tasks moving adding
-- new tasks → a letter for what became of each, and the holders of the keys that were taken
local letters, holders_found = add_tasks(unpack(args))
return '\146' .. bytes(letters) .. packed_ids(holders_found)
