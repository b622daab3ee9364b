-- answer: what a worker runs, for those who asked. Kept for as long as they may wait.
--
-- ARGV  wid, the moment of the question in ms, what it says, ttl ms
-- Returns 1; 0 when wid is not registered (any more).

local wid = ARGV[1]
redis.call('DEL', NIL)
if not redis.call('ZSCORE', WORKERS, wid) then return 0 end
redis.call('SET', running_key(wid), ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[4])
return 1
