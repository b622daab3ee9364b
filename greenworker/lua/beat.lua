-- beat: lengthens the lease of a living incarnation.
--
-- ARGV  wid, lease ms
-- Returns 1; 0 when it is no longer registered: its deliveries are others' now.
-- (ZADD XX answers 0 for a changed score as well: hence the look before.)

local wid, lease = ARGV[1], tonumber(ARGV[2])
redis.call('DEL', NIL)
if not redis.call('ZSCORE', WORKERS, wid) then return 0 end
local now = now_ms()
heard(now, lease, lease * 2 / 3)
redis.call('ZADD', WORKERS, 'XX', now + lease, wid)
return 1
