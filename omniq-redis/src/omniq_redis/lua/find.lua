-- needs common tasks
-- filter, cursor, limit, backwards → the cursor and ids of tasks that may match, in any order; those among them beyond
-- which there may be more; and whether more tasks have expired than this call could see to
local where, cursor, limit, backwards = unpack(args, 1, 4)
local states, queue, name, schedule, expired = unpack(where, 1, 5)
local EXPIRED = 1000
-- Ids that one call reads.
local FEW = 5000

local function is_asked_for(state) return bit.band(states, 2 ^ state) ~= 0 end

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

local found, ends = { cursor }, {}

local function add(ids)
  for _, id in ipairs(ids) do found[#found + 1] = id end
end

-- A page in the order of ids, from beyond the cursor on; which of them is the furthest from it.
local function add_page(ids, size, furthest)
  add(ids)
  if #ids == size then ends[#ends + 1] = furthest end
end

local function add_page_of(key)
  local first, last = cursor and '(' .. cursor or '-', '+'
  if backwards then first, last = cursor and '(' .. cursor or '+', '-' end
  local page = { 'ZRANGE', prefix .. key, first, last, 'BYLEX', 'LIMIT', 0, limit }
  if backwards then table.insert(page, 6, 'REV') end
  local ids = call(unpack(page))
  add_page(ids, limit, ids[#ids])
end

-- ── places in the set `ids` ──

-- Whether an id is before another: Lua compares texts by the server's locale.
local function is_before(id, other)
  for i = 1, math.min(#id, #other) do
    local one, two = id:byte(i), other:byte(i)
    if one ~= two then return one < two end
  end
  return #id < #other
end

-- Places are far apart: from one to the next, it takes a leap.
local function each_place(visit)
  local from = '-inf'
  while true do
    local id, at = unpack(call('ZRANGEBYSCORE', prefix .. 'ids', from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1))
    if not id then return end
    visit(id, tonumber(at))
    from = '(' .. at
  end
end

-- Whether the tasks of a place, of which this is one, may be of that queue and name. Where it isn't in its place, its
-- record doesn't tell.
local function is_of_kind(id, kind)
  if not queue and not name then return true end
  local t = task(id)
  if not t or kind_of(t[QUEUE], t[NAME]) ~= kind then return true end
  return (not queue or t[QUEUE] == queue) and (not name or t[NAME] == name)
end

-- The places of tasks that haven't ended, and of those that have and may match.
local function matching_places()
  local unended, ended = {}, {}
  each_place(function(id, at)
    local how = at % ENDS
    if how == 0 and is_of_kind(id, at) then
      unended[#unended + 1] = at
    elseif how ~= 0 and is_asked_for(RUNNING + how) and is_of_kind(id, at - how) then
      ended[#ended + 1] = at
    end
  end)
  return unended, ended
end

local function number_at(places)
  local number = 0
  for _, at in ipairs(places) do number = number + call('ZCOUNT', prefix .. 'ids', text(at), text(at)) end
  return number
end

-- The rank of the first one, of those from `low` on and before `high`, that comes after the cursor, or isn't before it.
local function rank_at_cursor(low, high)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local id = call('ZRANGE', prefix .. 'ids', middle, middle)[1]
    local is_passed = is_before(id, cursor) or not backwards and id == cursor
    if is_passed then low = middle + 1 else high = middle end
  end
  return low
end

local function add_page_at(at, size)
  local low = call('ZCOUNT', prefix .. 'ids', '-inf', '(' .. text(at))
  local high = low + call('ZCOUNT', prefix .. 'ids', text(at), text(at))
  if cursor and backwards then high = rank_at_cursor(low, high) end
  if cursor and not backwards then low = rank_at_cursor(low, high) end
  if backwards then low = math.max(low, high - size) else high = math.min(high, low + size) end
  local ids = low < high and call('ZRANGE', prefix .. 'ids', low, high - 1) or {}
  add_page(ids, size, backwards and ids[1] or ids[#ids])
end

-- ── sets of a state ──

-- The sets that order the tasks of those states that haven't ended; nil if all of these are asked for.
local function ordering_sets()
  local keys, all = {}, true
  for state = PENDING, RUNNING do
    if not is_asked_for(state) then
      all = false
    elseif state >= WAITING then
      keys[#keys + 1] = ordering_set(state)
    else
      for _, key in ipairs(call('HKEYS', prefix .. 'count')) do
        local of_queue, named = key:match('^(%S+) (%S+)$')
        if named == NAMES[state] and (not queue or queue == of_queue) then
          keys[#keys + 1] = ordering_set(state, of_queue)
        end
      end
    end
  end
  return not all and keys
end

-- The members of these sets, nil if these are many, or more than that.
local function few_members(keys, most)
  local number = 0
  for _, key in ipairs(keys) do number = number + call('ZCARD', prefix .. key) end
  if number > math.min(most, FEW) then return nil end
  local ids = {}
  for _, key in ipairs(keys) do
    for _, id in ipairs(call('ZRANGE', prefix .. key, 0, -1)) do ids[#ids + 1] = id end
  end
  return ids
end

local function add_from_all()
  local unended, places = matching_places()
  local keys = ordering_sets()
  local few = keys and few_members(keys, number_at(unended))
  if few then
    add(few)
  else
    for _, at in ipairs(unended) do places[#places + 1] = at end
  end
  local size = math.min(limit, math.max(10, math.floor(FEW / math.max(#places, 1))))
  for _, at in ipairs(places) do add_page_at(at, size) end
  add(unlisted())
end

local more = expired and see_to_expired() or false
if expired or schedule then
  add_page_of(expired and 'overdue' or 'tasks_of:' .. schedule)
else
  add_from_all()
end
return '\147' .. packed_ids(found) .. packed_ids(ends) .. pack(more)
