-- Stands before push, push_once and tick, behind marks: how a message becomes present.

-- A moment as a sender says it: '+ms' from now, or an absolute ms.
local function moment(spec, now)
  if string.sub(spec, 1, 1) == '+' then return now + tonumber(string.sub(spec, 2)) end
  return tonumber(spec)
end

-- In full: Lua writes a number of 15 digits as 2.5e+14. And 0 would say: never, and 1: cancelled.
local function deadline(spec, now)
  return string.format('%.0f', math.max(2, moment(spec, now)))
end

-- What sending relies on, before the first write. Returns how many dead letters there are.
local function require_sending()
  require_type(STATS, 'hash')
  local buried = read('zset', 'ZCARD', DEAD)
  if buried > 0 then require_type(RECORDS, 'hash') end
  return buried
end

-- Whether a queue is among those that are known, where that was asked.
local known_queues = {}

-- Why nothing can be sent there, or nil. `list`: where it would wait; `first`: the key in whose line that is.
local function wrong_line(queue, priority, list, first)
  local waiting = redis.pcall('LLEN', wake_key(queue))
  if type(waiting) ~= 'number' then return mistyped(wake_key(queue), 'list') end
  tokens[queue] = waiting
  if known_queues[queue] == nil then known_queues[queue] = read('set', 'SISMEMBER', QUEUES, queue) == 1 end
  return mistyped(list, 'list') or (first and mistyped(turn_key(queue, priority), 'list')) or nil
end

-- Whether an id that is present makes way: it was cancelled and nobody holds it, so it has ended for everybody, and
-- lies there until somebody comes past.
local function makes_way(id, envelope) return is_called_off(envelope) and not is_held(id) end

-- It does so. 'in line' if it lies in the very list `key`, and may stay there for the new one; nil if
-- it is present. The way to it through another list is long, but such a send is rare.
local function make_way(id, key)
  local envelope = redis.call('HGET', MSG, id)
  if not makes_way(id, envelope) then return nil end
  local lock = lock_in(envelope)
  if lock then release_lock(id, lock) end
  redis.call('HINCRBY', STATS, was_replaced(envelope) and 'replaced' or 'cancelled', 1)
  if redis.call('ZREM', SCHEDULED, id) == 1 then return 'gone' end
  local line, queue, _, first = home(envelope)
  if line == key then return 'in line' end
  -- pcall: too late to refuse a key of a wrong type.
  if redis.pcall('LREM', line, -1, id) == 1 and first then count_line(queue, -1) end
  return 'gone'
end

-- `rest`: 'result-ttl queue task options\nbody'.
local function sealed(priority, expires, rest, now)
  return '1 0 0 ' .. priority .. ' ' .. now .. ' ' .. (expires == '' and '0' or deadline(expires, now)) .. ' ' .. rest
end

-- `woken` notes the queues that are known by now, and 'now' for those where a worker is to be woken; `buried`: how many dead
-- letters there are. `place`: the index in its list that it takes over. False when this id is present already, and was not
-- cancelled.
local function send(id, queue, priority, due, expires, rest, now, buried, woken, place)
  local envelope, left = sealed(priority, expires, rest, now), nil
  local key, first, second = list_of(queue, priority, rest)
  if redis.call('HSETNX', MSG, id, envelope) == 0 then
    left = make_way(id, due <= now and key)
    if not left then return false end
    redis.call('HSET', MSG, id, envelope)
  end
  -- An id that is sent again begins anew: what is known of its former life would be wrong.
  redis.call('DEL', result_key(id))
  if buried > 0 and redis.call('HDEL', RECORDS, id) == 1 then redis.call('ZREM', DEAD, id) end
  if due > now then
    redis.call('ZADD', SCHEDULED, due, id)
  elseif place then
    redis.call('LSET', key, place, id)
  elseif left ~= 'in line' then
    local length = redis.call('LPUSH', key, id)
    if first then has_come(length, first, second, queue, priority, now) end
  end
  -- (Whether a key may start one, it says itself: to_wake.)
  if due <= now and not first then woken[queue] = 'now' end
  woken[queue] = woken[queue] or true
  return true
end

-- After the last one.
local function announce(sent, woken, now)
  for queue, how in pairs(woken) do
    if not known_queues[queue] then redis.call('SADD', QUEUES, queue) end
    if how == 'now' then to_wake[queue] = true end
  end
  close_lines(now)
  wake_all()
  if sent > 0 then redis.call('HINCRBY', STATS, 'enqueued', sent) end
end
