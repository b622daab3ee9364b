-- sync: after a lost connection, a living incarnation fences its earlier claims
-- and adopts the one whose reply did not arrive.
--
-- ARGV  wid, last seq whose reply arrived, last seq that was used
-- Returns {now ms, seq, id, envelope, seq, id, envelope, ...}: what was claimed by later
--         sequences, never what the worker already knows; {'gone'} when not registered.

local wid, known, used = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('DEL', NIL)
if not redis.call('ZSCORE', WORKERS, wid) then return {'gone'} end
-- A claim still on its way through the old connection now arrives too late.
if (tonumber(redis.call('HGET', SEQ, wid) or 0) or 0) < used then redis.call('HSET', SEQ, wid, used) end

local reply, lost = {now_ms()}, {}
local held = redis.call('HGETALL', processing_key(wid))
for i = 1, #held, 2 do
  if tonumber(held[i + 1]) > known then
    local envelope = redis.call('HGET', MSG, held[i])
    if envelope then
      reply[#reply + 1] = held[i + 1]
      reply[#reply + 1] = held[i]
      reply[#reply + 1] = envelope
    else
      lost[#lost + 1] = held[i]
    end
  end
end
for _, id in ipairs(lost) do
  redis.call('HDEL', processing_key(wid), id)
  redis.pcall('ZREM', suspected_key(wid), id)  -- whatever it is
end
return reply
