-- beat: lengthens the lease of a living incarnation.
--
-- ARGV  wid, lease ms
-- Returns 1; 0 when it is no longer registered: its deliveries are others' now.
-- (ZADD XX answers 0 for a changed score as well: hence the look before.)

local wid = ARGV[1]
redis.call('DEL', NIL)
if not redis.call('ZSCORE', WORKERS, wid) then return 0 end
redis.call('ZADD', WORKERS, 'XX', now_ms() + tonumber(ARGV[2]), wid)
return 1
