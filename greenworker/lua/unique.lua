-- Stands before push_once, tick and revive, behind marks: who holds a lock.
--
-- The hash `unique` names of each lock the message that holds it. Its holder gives it back at its end, whatever end that
-- is (finish.lua), or at its first claim (claim.lua). What is noted of a holder that is no more counts for nothing.

-- The id and the envelope of the message that holds a lock and has not ended; or nil.
local function holder_of(lock, now)
  local id = redis.call('HGET', UNIQUE, lock)
  local envelope = id and redis.call('HGET', MSG, id)
  if not envelope or lock_in(envelope) ~= lock then return nil end
  local _, _, _, _, expires = head(envelope)
  if not expires then return nil end
  -- What waits when its expires has passed, or was cancelled, has ended, though nobody has met it yet.
  local is_over = (expires ~= '0' and tonumber(expires) <= now) or is_called_off(envelope)
  if is_over and not is_held(id) then return nil end
  return id, envelope
end

-- Why no lock can be taken, or nil.
local function wrong_locks()
  return mistyped(UNIQUE, 'hash') or mistyped(WORKERS, 'zset') or mistyped(CORPSES, 'set')
    or mistyped(MARKS, 'hash') or mistyped(PAUSED, 'set')
end
