-- needs common
-- ids, how many of them came before → a page of their records, nil for those that aren't there or have expired
local ids, before = unpack(args, 1, 2)
local FEW = 25
-- Where a record says when it expires, and before which time none of ours does.
local EXPIRES_AT, EARLIEST = 22, -2 ^ 40

local function has_expired(record)
  local ok, at = pcall(struct_unpack, '>d', record, EXPIRES_AT)
  return ok and EARLIEST <= at and at <= now
end

local found, total, done = {}, 0, before or 0
while done < #ids and total <= MAX_BODIES do
  local some = { unpack(ids, done + 1, math.min(done + FEW, #ids)) }
  for _, record in ipairs(fields('result', some)) do
    found[#found + 1] = record and not has_expired(record) and bytes(record) or NIL
    total = total + #found[#found]
  end
  done = done + #some
end
return packed_page(packed_list(found), done < #ids and done or nil)
