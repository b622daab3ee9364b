-- seen_drop: a filter has seen nothing any more. Its sets are removed by sweeps, some at a time.
--
-- ARGV  the filter's name
-- Returns how many it had seen.

require_type(SEEN, 'hash')
require_type(DROPPED, 'hash')
redis.call('DEL', NIL)
local filter = read_filter(ARGV[1])
redis.call('HDEL', SEEN, ARGV[1])
if filter.gen then
  redis.call('HSET', DROPPED, filter.gen, string.format('%.0f %.0f 0', filter.level, filter.split))
end
return filter.count
