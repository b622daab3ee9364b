-- Stands before push_once, tick and revive: who holds a lock.
--
-- The hash `unique` names of each lock the message that holds it. Its holder gives it back at its end, whatever end that
-- is (finish.lua), or at its first claim (claim.lua). What is noted of a holder that is no more counts for nothing.

-- Whether it is with a worker: a look at each, so only where nothing else tells it.
local function is_claimed(id)
  for _, wid in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    -- pcall: too late to refuse a key of a wrong type.
    if redis.pcall('HEXISTS', processing_key(wid), id) == 1 then return true end
  end
  for _, wid in ipairs(redis.call('SMEMBERS', CORPSES)) do
    if redis.pcall('HEXISTS', processing_key(wid), id) == 1 then return true end
  end
  return false
end

-- The id and the envelope of the message that holds a lock and has not ended; or nil.
local function holder_of(lock, now)
  local id = redis.call('HGET', UNIQUE, lock)
  local envelope = id and redis.call('HGET', MSG, id)
  if not envelope or lock_in(envelope) ~= lock then return nil end
  local _, _, _, _, expires = head(envelope)
  -- What waits when its expires has passed has ended, though nobody has met it yet.
  if not expires or (expires ~= '0' and tonumber(expires) <= now and not is_claimed(id)) then return nil end
  return id, envelope
end

-- Why no lock can be taken, or nil.
local function wrong_locks()
  return mistyped(UNIQUE, 'hash') or mistyped(WORKERS, 'zset') or mistyped(CORPSES, 'set')
end
