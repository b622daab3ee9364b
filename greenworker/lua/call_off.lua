-- Stands before cancel and cancel_comb: how a message that has not ended is cancelled, wherever it is.

-- Which worker holds each of some ids: {id -> {wid, seq, whether it lives}}.
local function holders_of(ids)
  local held = {}
  local function look(wids, lives)
    for _, wid in ipairs(wids) do
      for k, seq in ipairs(redis.call('HMGET', processing_key(wid), unpack(ids))) do
        if seq then held[ids[k]] = {wid, seq, lives} end
      end
    end
  end
  if #ids > 0 then
    look(redis.call('ZRANGE', WORKERS, 0, -1), true)
    look(redis.call('SMEMBERS', CORPSES), false)
  end
  return held
end

-- Whether it has ended already, though it is present: cancelled or expired, and nobody holds it.
local function has_ended(envelope, holder, now)
  local _, _, _, _, expires = head(envelope)
  return not holder and expires ~= '0' and tonumber(expires) <= now
end

-- What is scheduled leaves. What waits in line stays there until somebody meets it, who cannot run it (weed.lua): for
-- whoever looks it has ended. What a worker holds is told to it, and a sweep ends what a dead one held.
local function call_off(id, envelope, holder)
  if not holder and redis.call('ZREM', SCHEDULED, id) == 1 then
    finish(id, 'cancelled', tonumber((select(6, head(envelope)))), CANCELLED, (lock_in(envelope)))
    return
  end
  if not was_cancelled(envelope) then
    redis.call('HSET', MSG, id, (string.gsub(envelope, '^(1 %d+ %d+ %d %d+) %d+', '%1 ' .. WAS_CANCELLED, 1)))
  end
  if holder then
    if holder[3] then redis.call('HSET', cancels_key(holder[1]), id, holder[2]) end
  else
    redis.call('PUBLISH', done_channel(id), CANCELLED)
  end
end
