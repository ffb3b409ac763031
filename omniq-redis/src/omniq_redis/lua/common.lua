-- Stands before every script. KEYS[1] is what all keys begin with. ARGV are the seconds by which tests move the clock,
-- the arguments as msgpack, the bodies of the tasks or results among them, one behind the other, and who calls.
--
-- Scripts read all at once, change what they have read, and write all at once: to the server, a batch of hundreds of
-- tasks is a dozen commands.
local pack = cmsgpack.pack
local prefix = KEYS[1]

-- Whether a command on that key failed and is worth another try. Where somebody has put something of another type
-- there, that is put aside.
local function failed(answer, key)
  if type(answer) ~= 'table' or not answer.err then return false end
  if answer.err:find('WRONGTYPE', 1, true) then
    redis.call('RENAME', key, prefix .. 'damaged:' .. key:sub(#prefix + 1))
  end
  return true
end

local function call(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if failed(answer, key) then return redis.call(command, key, ...) end -- whose error is told as it is
  return answer
end

-- The same for a slice of a long list, which is handed on only once.
local function call_slice(command, key, list, first, last)
  local answer = redis.pcall(command, key, unpack(list, first, last))
  if failed(answer, key) then return redis.call(command, key, unpack(list, first, last)) end
  return answer
end

local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6 + ARGV[1]
local args = cmsgpack.unpack(ARGV[2])
local sender = ARGV[4]

-- Lua can unpack some 8,000 values at once.
local SLICE = 2000
-- Bytes of bodies that one reply should hold.
local MAX_BODIES = 4 * 1024 * 1024

-- A server whose memory is full refuses a script that begins by writing what may need more, and lets others write
-- on. To be called first by what keeps, ends or frees what there is, and must go on then.
local function even_if_full() call('HDEL', prefix .. 'nothing', '') end

local function in_slices(command, key, list)
  for first = 1, #list, SLICE do
    call_slice(command, prefix .. key, list, first, math.min(first + SLICE - 1, #list))
  end
end

-- A number as the argument of a command: most of a batch are the same, and each would be printed anew.
local texts = {}
local function text(number)
  local found = texts[number]
  if not found then
    found = ('%.17g'):format(number)
    texts[number] = found
  end
  return found
end

-- What ZADD takes, for ids that have one score.
local function scored(score, ids)
  local found, at = {}, text(score)
  for i, id in ipairs(ids) do found[2 * i - 1], found[2 * i] = at, id end
  return found
end

-- The fields of a hash, false for those that aren't there.
local function fields(key, names)
  local found = {}
  if #names > 0 and #names <= SLICE then return call_slice('HMGET', prefix .. key, names, 1, #names) end
  for first = 1, #names, SLICE do
    local slice = call_slice('HMGET', prefix .. key, names, first, math.min(first + SLICE - 1, #names))
    for i = 1, #slice do found[first + i - 1] = slice[i] end
  end
  return found
end

-- Changes of the less busy sorted sets, by key: a member's score, or false to take it away. The last word counts.
local scores = {}

local function put(key, member, score)
  scores[key] = scores[key] or {}
  scores[key][member] = score
end

local function drop(key, member) put(key, member, false) end

local function write_scores()
  for key, members in pairs(scores) do
    local added, removed = {}, {}
    for member, score in pairs(members) do
      if score then
        added[#added + 1] = score
        added[#added + 1] = member
      else
        removed[#removed + 1] = member
      end
    end
    in_slices('ZADD', key, added)
    in_slices('ZREM', key, removed)
  end
  scores = {}
end

-- What is kept is packed by `struct` into a string, as Python's `wire` reads it. For a time that isn't: NEVER.
local NEVER = math.huge
local struct_pack, struct_unpack = struct.pack, struct.unpack

local function bytes(value) return '\198' .. struct_pack('>I4', #value) .. value end

local NIL = '\192'

local function packed_list(items) return '\221' .. struct_pack('>I4', #items) .. table.concat(items) end

-- Ids as bytes: who has put them there may not have written text.
local function packed_ids(ids)
  local items = {}
  for i, id in ipairs(ids) do items[i] = bytes(id) end
  return packed_list(items)
end

-- A page of a list that is packed already, and what to ask with for the next one; nil where there is none.
local function packed_page(list, after) return '\146' .. list .. pack(after) end

-- When a worker was seen, by its report; never, if that can't be read.
local function seen_at(report)
  local ok, at = pcall(struct_unpack, '>d', report)
  return ok and at or 0
end

-- Hands out the bodies of a call, in order.
local position = 1
local function next_body(size)
  local body = ARGV[3]:sub(position, position + size - 1)
  position = position + size
  return body
end

-- From more queues than that, those that hold something are picked first.
local MANY_QUEUES = 16

-- The queues among these that may have something to claim, by the counts.
local function holding(queues)
  if #queues <= MANY_QUEUES then return queues end
  local found, kept = {}, {}
  local counts = call('HGETALL', prefix .. 'count')
  for i = 1, #counts, 2 do
    local queue = counts[i]:match('^(.*) pending$') or counts[i]:match('^(.*) scheduled$')
    if queue then found[queue] = true end
  end
  for _, queue in ipairs(queues) do
    if found[queue] then kept[#kept + 1] = queue end
  end
  return kept
end
