-- register: a new incarnation, from now on alive for one lease and allowed to claim.
--
-- ARGV  wid, lease ms, about (JSON, for people), queues...
-- Returns 1; 0 when this wid was registered before and is being drained.

local wid = ARGV[1]
require_type(WORKERS, 'zset')
require_type(CORPSES, 'set')
require_type(ABOUT, 'hash')
require_type(LEASES, 'hash')
require_type(QUEUES, 'set')
for i = 4, #ARGV do require_type(consumers_key(ARGV[i]), 'set') end
redis.call('DEL', NIL)
if redis.call('SISMEMBER', CORPSES, wid) == 1 then return 0 end
redis.call('ZADD', WORKERS, now_ms() + tonumber(ARGV[2]), wid)
redis.call('HSET', ABOUT, wid, ARGV[3])
redis.call('HSET', LEASES, wid, ARGV[2])
for i = 4, #ARGV do
  redis.call('SADD', consumers_key(ARGV[i]), wid)
  redis.call('SADD', QUEUES, ARGV[i])
end
return 1
