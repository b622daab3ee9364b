-- Stands before push, push_once and tick: how a message becomes present.

-- A moment as a sender says it: '+ms' from now, or an absolute ms.
local function moment(spec, now)
  if string.sub(spec, 1, 1) == '+' then return now + tonumber(string.sub(spec, 2)) end
  return tonumber(spec)
end

-- In full: Lua writes a number of 15 digits as 2.5e+14. And 0 would say: never.
local function deadline(spec, now)
  return string.format('%.0f', math.max(1, moment(spec, now)))
end

-- What sending relies on, before the first write.
local function require_sending()
  require_type(MSG, 'hash')
  require_type(SCHEDULED, 'zset')
  require_type(QUEUES, 'set')
  require_type(STATS, 'hash')
  require_type(DEAD, 'zset')
  require_type(RECORDS, 'hash')
end

-- Why nothing can be sent there, or nil.
local function wrong_line(queue, priority)
  return mistyped(ready_key(queue, priority), 'list') or mistyped(wake_key(queue), 'list')
end

-- `rest`: 'result-ttl queue task options\nbody'. `woken` notes the queues that are known by now, and
-- 'now' for those where a worker is to be woken; `buried`: how many dead letters there are. `place`: the index in its
-- list that it takes over. False when this id is present already.
local function send(id, queue, priority, due, expires, rest, now, buried, woken, place)
  expires = expires == '' and '0' or deadline(expires, now)
  local envelope = '1 0 0 ' .. priority .. ' ' .. now .. ' ' .. expires .. ' ' .. rest
  if redis.call('HSETNX', MSG, id, envelope) == 0 then return false end
  -- An id that is sent again begins anew: what is known of its former life would be wrong.
  redis.call('DEL', result_key(id))
  if buried > 0 and redis.call('HDEL', RECORDS, id) == 1 then redis.call('ZREM', DEAD, id) end
  if due > now then
    redis.call('ZADD', SCHEDULED, due, id)
  elseif place then
    redis.call('LSET', ready_key(queue, priority), place, id)
  else
    redis.call('LPUSH', ready_key(queue, priority), id)
  end
  if not woken[queue] then
    woken[queue] = true
    redis.call('SADD', QUEUES, queue)
  end
  if due <= now then woken[queue] = 'now' end
  return true
end

-- After the last one.
local function announce(sent, woken)
  for queue, how in pairs(woken) do
    if how == 'now' then wake(queue) end
  end
  if sent > 0 then redis.call('HINCRBY', STATS, 'enqueued', sent) end
end
