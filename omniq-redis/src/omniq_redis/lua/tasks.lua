-- Tasks are in the hash `task`, their bodies apart in `body`, so that changes of state don't write them again.
-- A task that has been read is a list: its id, then the fields of its record.
local TASK = '>BbI4I4I4I4I4BddddddI2c0I2c0I4c0I2c0I2c0I2c0'
local ID, STATE, PRIORITY, EPOCH, ATTEMPTS, CRASHES, SIZE, AWAITED, CANCEL = 1, 2, 3, 4, 5, 6, 7, 8, 9
local CREATED_AT, RUN_AT, EXPIRES_AT, FINISHED_AT, LEASE_UNTIL, CLAIMED_AT = 10, 11, 12, 13, 14, 15
local QUEUE, SCHEDULE, PARENTS, NAME, UNIQUE, WORKER = 16, 17, 18, 19, 20, 21
-- SIZE is that of the body, AWAITED the number of children that wait for the task, PARENTS a list as msgpack.

-- Beyond the epoch of any claim, so that all of them are fenced off, and with room for more.
local STAND_IN_EPOCH = 2 ^ 29
-- What no counter of a sound task exceeds.
local MAX_COUNT = 2 ^ 30
-- Attempts by which whoever claims a stand-in sees what it is.
local DAMAGED = 2 ^ 32 - 1

local PENDING, SCHEDULED, WAITING, RUNNING, SUCCESS, ERROR = 1, 2, 3, 4, 5, 6
local NAMES = { 'pending', 'scheduled', 'waiting', 'running', 'success', 'error', 'cancelled', 'expired' }

local function unpacked(id, record) return { id, struct_unpack(TASK, record) } end

-- Nil for what can't be read to its last byte.
local function readable(id, record)
  local ok, t = pcall(unpacked, id, record)
  return ok and t[WORKER + 1] == #record + 1 and t or nil
end

-- Nil for what isn't a record of ours.
local function parsed(id, record)
  local t = readable(id, record)
  if not t or not NAMES[t[STATE]] then return nil end
  for field = CREATED_AT, CLAIMED_AT do
    if t[field] ~= t[field] then return nil end -- not a number
  end
  return t
end

local function record_of(t)
  local queue, schedule, parents, name, unique, worker =
    t[QUEUE], t[SCHEDULE], t[PARENTS], t[NAME], t[UNIQUE], t[WORKER]
  return struct_pack(TASK, t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10], t[11], t[12], t[13], t[14], t[15],
    #queue, queue, #schedule, schedule, #parents, parents, #name, name, #unique, unique, #worker, worker)
end

-- Most tasks are claimed once and end once: their records are spliced, since that takes half as long as the above.
-- Bytes: 1 state, 3-6 epoch, 48-55 finished_at, 56-63 lease_until, 64-71 claimed_at, and at the end the worker.
local LOOK_TO_CLAIM = '>BxI4xxxxxxxxI4xxxxxxxxxxxxxxxxxxxxxdxxxxxxxxxxxxxxxxxxxxxxxxI2c0' -- state, epoch, size, expires_at, queue
-- state, epoch, awaited, queue, schedule, parents, name, unique
local LOOK_TO_END = '>BxI4xxxxxxxxxxxxI4xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxI2c0I2c0I4c0I2c0I2c0'

-- `times` are lease_until and claimed_at; a task that isn't claimed has an empty worker.
local function claimed_record(record, epoch, times, worker)
  local head = '\4' .. record:sub(2, 2) .. struct_pack('>I4', epoch)
  return head .. record:sub(7, 55) .. times .. record:sub(72, -3) .. worker
end

-- `times` are finished_at and lease_until.
local function ended_record(record, state, times)
  return string.char(state) .. record:sub(2, 47) .. times .. record:sub(64)
end

local function parents_of(t)
  if t[PARENTS] == '' then return {} end
  local ok, parents = pcall(cmsgpack.unpack, t[PARENTS])
  local found = {}
  for _, parent in pairs(ok and type(parents) == 'table' and parents or {}) do
    if type(parent) == 'string' then found[#found + 1] = parent end
  end
  return found
end

-- By id, as read or written by this script; false for those that aren't there.
local records, tasks = {}, {}

local function read_records(ids)
  for i, record in ipairs(fields('task', ids)) do
    if records[ids[i]] == nil then records[ids[i]] = record end
  end
end

-- False where there is no record, or none of ours.
local function task(id)
  if tasks[id] == nil then
    if records[id] == nil then records[id] = call('HGET', prefix .. 'task', id) end
    tasks[id] = records[id] and parsed(id, records[id]) or false
  end
  return tasks[id]
end

-- Every task is in the set that orders the tasks of its state. And all are in the set `ids`: by what they are listed by,
-- and then by id. A task's place in it is a number that stands for its queue and name, and for how it ended if it did;
-- so that lists need no more memory, and a task moves there only once.
local ENDS = 8

local kinds_of = {}

local function kind_of(queue, name)
  local of_queue = kinds_of[queue]
  if not of_queue then
    of_queue = {}
    kinds_of[queue] = of_queue
  end
  local kind = of_queue[name]
  if not kind then
    kind = tonumber(redis.sha1hex(queue .. ' ' .. name):sub(1, 12), 16) * ENDS
    of_queue[name] = kind
  end
  return kind
end

local function place_of(queue, name, state)
  return kind_of(queue, name) + (state < SUCCESS and 0 or state - RUNNING)
end

local function place(t) return place_of(t[QUEUE], t[NAME], t[STATE]) end

local function ordering_set(state, queue)
  if state == PENDING then return 'ready:' .. queue end
  if state == SCHEDULED then return 'later:' .. queue end
  if state == WAITING then return 'waiting' end
  return state == RUNNING and 'lease' or 'ended:' .. NAMES[state]
end

-- Id and record of each task, nil for those that aren't there.
local function rows_without_bodies(ids)
  local items = {}
  for i, id in ipairs(ids) do items[i] = records[id] and '\146' .. bytes(id) .. bytes(records[id]) or NIL end
  return packed_list(items)
end

-- What is wrong with tasks, by id, where their records don't show it.
local damage = {}

-- The same with their bodies, and what is wrong with them if anything.
local function rows(ids)
  local items = {}
  for i, body in ipairs(fields('body', ids)) do
    local id = ids[i]
    local wrong = damage[id] or not body and 'its body is missing'
    if not records[id] then
      items[i] = NIL
    elseif wrong then
      items[i] = '\148' .. bytes(id) .. bytes(records[id]) .. bytes(body or '') .. pack(wrong)
    else
      items[i] = '\147' .. bytes(id) .. bytes(records[id]) .. bytes(body)
    end
  end
  return packed_list(items)
end

-- Tasks among which those that aren't listed are looked for: with more of them, it would keep the server for long.
local MANY = 100000

-- The tasks that have a record and aren't in the set of all ids: somebody else has put them there.
local function unlisted()
  local found, number = {}, call('HLEN', prefix .. 'task')
  if number == call('ZCARD', prefix .. 'ids') or number > MANY then return found end
  local all = call('HKEYS', prefix .. 'task')
  for first = 1, number, SLICE do
    local slice = { unpack(all, first, math.min(first + SLICE - 1, number)) }
    for i, score in ipairs(call('ZMSCORE', prefix .. 'ids', unpack(slice))) do
      if not score then found[#found + 1] = slice[i] end
    end
  end
  return found
end
