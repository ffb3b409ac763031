-- needs common tasks
-- filter, cursor, limit → lists in which are the next `limit` ids after the cursor of tasks that may match, and whether
-- more tasks have expired than this call could see to
local where, cursor, limit = unpack(args, 1, 3)
local states, queue, schedule, expired = unpack(where, 1, 4)
local EXPIRED = 1000
local FEW = 5000

-- The sets that are ordered by id, and those that are ordered otherwise.
local by_id, by_score = {}, {}

local function add_ordering_sets(state)
  for _, key in ipairs(call('HKEYS', prefix .. 'count')) do
    local of_queue, name = key:match('^(%S+) (%S+)$')
    if name == NAMES[state] and (not queue or queue == of_queue) then
      by_score[#by_score + 1] = ordering_set(state, of_queue)
    end
  end
end

local function add_sets(state)
  if RARE[state] then
    by_id[#by_id + 1] = RARE[state]
  elseif state == RUNNING then
    by_score[#by_score + 1] = 'lease'
  else
    add_ordering_sets(state)
  end
end

-- What has expired moves from a set that is ordered by time to one that is ordered by id.
local function see_to_expired()
  local ids = call('ZRANGEBYSCORE', prefix .. 'expiring', '-inf', now, 'LIMIT', 0, EXPIRED)
  if #ids > 0 then even_if_full() end
  for _, id in ipairs(ids) do
    drop('expiring', id)
    put('overdue', id, 0)
  end
  write_scores()
  return #ids == EXPIRED
end

local more = expired and see_to_expired()
if expired then
  by_id = { 'overdue' }
elseif schedule then
  by_id = { 'tasks_of:' .. schedule }
elseif bit.band(states, 2 ^ SUCCESS) ~= 0 then
  by_id = { 'ids' }
else
  for state = PENDING, #NAMES do
    if bit.band(states, 2 ^ state) ~= 0 then add_sets(state) end
  end
end

local total = 0
for _, key in ipairs(by_score) do total = total + call('ZCARD', prefix .. key) end
if total > FEW then by_id, by_score = { 'ids' }, {} end

local pages = {}
for _, key in ipairs(by_score) do pages[#pages + 1] = packed_ids(call('ZRANGE', prefix .. key, 0, -1)) end
for _, key in ipairs(by_id) do
  local after = cursor and '(' .. cursor or '-'
  pages[#pages + 1] = packed_ids(call('ZRANGEBYLEX', prefix .. key, after, '+', 'LIMIT', 0, limit))
  if key == 'ids' then pages[#pages + 1] = packed_ids(unlisted()) end
end
return '\146' .. packed_list(pages) .. pack(more or false)
