-- Stands before listen, release and reap: an incarnation listens to a queue no longer, or leaves.

local function stop_listening(queue, wid)
  -- pcall: too late to refuse a key of a wrong type.
  if redis.pcall('SREM', consumers_key(queue), wid) ~= 1 then return end
  -- It may have taken a wake token along.
  for priority = 9, 0, -1 do
    for _, list in ipairs({ready_key(queue, priority), turn_key(queue, priority)}) do
      local waiting = redis.pcall('LLEN', list)
      if type(waiting) == 'number' and waiting > 0 then
        if redis.pcall('LLEN', wake_key(queue)) == 0 then wake(queue) end
        return
      end
    end
  end
end

local function depart(wid)
  redis.call('ZREM', WORKERS, wid)
  redis.call('SREM', CORPSES, wid)
  redis.call('HDEL', ABOUT, wid)
  redis.call('HDEL', LEASES, wid)
  redis.call('HDEL', SEQ, wid)
  forget_declared(wid)
  redis.call('DEL', suspected_key(wid), solitary_key(wid), cancels_key(wid))
  for _, queue in ipairs(redis.call('SMEMBERS', QUEUES)) do stop_listening(queue, wid) end
end

-- Up to n of what an incarnation holds: {id, seq, id, seq, ...}.
local function some_of(wid, n)
  local key = processing_key(wid)
  if redis.call('HLEN', key) <= n then return redis.call('HGETALL', key) end
  -- On to the first that holds any: a large hash that was half emptied begins with empty slots.
  local cursor, found = '0', {}
  repeat
    cursor, found = unpack(redis.call('HSCAN', key, cursor, 'COUNT', n))
  until #found > 0 or cursor == '0'
  return found
end
