-- Stands before every script: the names of the keys (greenworker/keys.py builds
-- the same ones), Redis' time, and the few steps that several scripts share.
--
-- KEYS[1] is gw:{namespace}:nil. It never exists; it routes the script, and its
-- deletion is the first write of every script that must work at maxmemory
-- (there, Redis lets a script go on if its first write needs no memory).

local NIL = KEYS[1]
local ROOT = string.sub(NIL, 1, -4)
local MSG, SCHEDULED, STATS = ROOT .. 'msg', ROOT .. 'scheduled', ROOT .. 'stats'
local WORKERS, CORPSES, SEQ = ROOT .. 'workers', ROOT .. 'corpses', ROOT .. 'seq'
local ABOUT, LEASES = ROOT .. 'about', ROOT .. 'leases'
local QUEUES, SWEEP, PULSE = ROOT .. 'queues', ROOT .. 'sweep', ROOT .. 'pulse'
local DEAD, RECORDS = ROOT .. 'dead', ROOT .. 'dead:record'
local PAUSED, ASKED, MARKS = ROOT .. 'paused', ROOT .. 'asked', ROOT .. 'marks'
local UNIQUE = ROOT .. 'unique'

local function ready_key(queue, priority) return ROOT .. 'ready:' .. queue .. ':' .. priority end
local function suspects_key(queue) return ROOT .. 'suspects:' .. queue end
local function wake_key(queue) return ROOT .. 'wake:' .. queue end
local function room_key(queue) return ROOT .. 'room:' .. queue end
local function consumers_key(queue) return ROOT .. 'consumers:' .. queue end
local function processing_key(wid) return ROOT .. 'processing:' .. wid end
local function suspected_key(wid) return ROOT .. 'suspected:' .. wid end
local function solitary_key(wid) return ROOT .. 'solitary:' .. wid end
local function running_key(wid) return ROOT .. 'running:' .. wid end
local function cancels_key(wid) return ROOT .. 'cancels:' .. wid end
local function result_key(id) return ROOT .. 'result:' .. id end
local function done_channel(id) return ROOT .. 'done:' .. id end

-- Messages that were present at so many crashes are suspects: a worker runs a few of them at once;
-- then, after another crash, one without other suspects; and at last one without anything else.
local SUSPECT_AFTER, ALONE_AFTER, SOLITARY_AFTER, FEW = 2, 3, 4, 32

-- What a dead worker held is scheduled at half a millisecond: by that it is known from what waits
-- for a moment of its own.
local CAME_BACK = 0.5
local function came_back(due) return tonumber(due) % 1 == CAME_BACK end

-- What a call may read of messages, at least one: 300 of 1 MB hold a server up for seconds.
local BUDGET = 4194304

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The head of an envelope: deliveries, attempt, priority, sent ms, expires ms
-- (0 = never), result ttl ms (0 = none), queue; or nil when it is none of ours.
local HEAD = '^1 (%d+) (%d+) (%d) (%d+) (%d+) (%d+) (%S+) '
local function head(envelope) return string.match(envelope, HEAD) end

-- How a message is unique, as its head says it, or nil.
local function unique_in(envelope)
  local line = string.sub(envelope, 1, string.find(envelope, '\n', 1, true) or 0)
  local at = string.find(line, ' unique=', 1, true)
  return at and string.match(line, '^[^ \n]+', at + 8)
end

-- The name of the lock that a message may hold, and for how long: d until it is done, s until it is started, r likewise
-- and the next one takes its place. Nil as a rule.
local function lock_in(envelope)
  local note = unique_in(envelope)
  if not note then return nil end
  local mode, name = string.match(note, '^([dsr])([%w_-]+)$')
  return name, mode
end

-- A lock is given back by its holder, and by nobody else. (pcall: too late to refuse a key of a wrong type.)
local function release_lock(id, lock)
  if redis.pcall('HGET', UNIQUE, lock) == id then redis.call('HDEL', UNIQUE, lock) end
end

-- What is cancelled and cannot be taken from where it is, out of the middle of a list or out of a worker's hands,
-- expires at this moment, which no send can name. So it has ended for whoever looks, and never runs again.
local WAS_CANCELLED, CANCELLED = '1', '{"state":"CANCELLED"}'
local function was_cancelled(envelope) return select(5, head(envelope or '')) == WAS_CANCELLED end

-- Of those, one in whose place another was sent (once.lua): who waited for it was told by which.
local function was_replaced(envelope)
  return was_cancelled(envelope) and string.find(envelope, '^[^\n]* replaced=') ~= nil
end

-- Whether a worker has it, or a dead one's list: a look at each, so only where nothing else tells it.
local function is_held(id)
  for _, wids in ipairs({redis.call('ZRANGE', WORKERS, 0, -1), redis.call('SMEMBERS', CORPSES)}) do
    for _, wid in ipairs(wids) do
      -- pcall: too late to refuse a key of a wrong type, and it may be held.
      if redis.pcall('HEXISTS', processing_key(wid), id) ~= 0 then return true end
    end
  end
  return false
end

-- At how many crashes a message was present; 0 when that cannot be told.
local function crashes_of(id)
  local deliveries = head(id and redis.call('HGET', MSG, id) or '')
  return tonumber(deliveries or 0)
end

-- One token at most: it wakes one idle worker, who passes it on if work remains. None where the queue is
-- paused: who resumes it puts one.
local tokens = {}  -- queue -> how many are there, where that was read already
local function wake(queue)
  local key = wake_key(queue)
  -- pcall: too late to refuse a key of a wrong type.
  if (tokens[queue] or redis.pcall('LLEN', key)) == 0 and redis.pcall('SISMEMBER', PAUSED, queue) ~= 1 then
    tokens[queue] = redis.call('LPUSH', key, '1')
  end
end

-- What is wrong with the type of a key, or nil.
local function mistyped(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found ~= wanted and found ~= 'none' then return key .. ' is a ' .. found .. ', not a ' .. wanted end
end

-- Before Redis 7 an error must be text; from then on only a table keeps its code.
local function refuse(what)
  what = 'GWTYPE ' .. what
  error(redis.REDIS_VERSION_NUM and {err = what} or what, 0)
end

-- What follows is refused before the first write if a key is of a wrong type:
-- a script does not roll back.
local function require_type(key, wanted)
  local wrong = mistyped(key, wanted)
  if wrong then refuse(wrong) end
end

-- What a command answers that only reads, and is the first one to touch its key: so the type need not be asked for.
local function read(wanted, command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  require_type(key, wanted)
  return redis.call(command, key, ...)
end

local function is_suspect(envelope) return tonumber(head(envelope or '') or 0) >= SUSPECT_AFTER end
