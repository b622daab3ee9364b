-- ask: every worker is asked what it runs. It finds the question with its next look for what is due (promote).
--
-- ARGV  how many tasks one is to name, at most; ms for which the question is kept
-- Returns {now ms: the moment of the question, wid, lease ms, held, about, ...} of those that are alive.
--
-- Of two questions at a time the later one stands; its answers serve both, as they name enough for both.

local most, ttl = tonumber(ARGV[1]), ARGV[2]
require_type(WORKERS, 'zset')
require_type(ABOUT, 'hash')
require_type(ASKED, 'string')
redis.call('DEL', NIL)

local now = now_ms()
local reply = {now}
local leases = redis.call('ZRANGEBYSCORE', WORKERS, now, '+inf', 'WITHSCORES')
for i = 1, #leases, 2 do
  local wid = leases[i]
  reply[#reply + 1] = wid
  reply[#reply + 1] = tonumber(leases[i + 1])
  -- pcall: what one holds is not worth a refusal.
  local held = redis.pcall('HLEN', processing_key(wid))
  reply[#reply + 1] = type(held) == 'number' and held or 0
  reply[#reply + 1] = redis.call('HGET', ABOUT, wid) or '{}'
end
local before = string.match(redis.call('GET', ASKED) or '', '^%d+ (%d+)$')
redis.call('SET', ASKED, now .. ' ' .. math.max(most, tonumber(before) or 0), 'PX', ttl)
return reply
