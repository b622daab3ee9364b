-- limit_look: goes on with a pass that looks again at keys whose lines are parked, since limits have changed.
--
-- ARGV  count
-- Returns 1 if there is more to do, else 0. (promote does the same, should whoever changed them be gone.)

require_type(LIMITS, 'hash')
require_type(KNOWN, 'hash')
require_type(LATER, 'zset')
redis.call('DEL', NIL)
local now = now_ms()
local more = look_on(now, tonumber(ARGV[1]))
close_lines(now)
wake_all()
return more and 1 or 0
