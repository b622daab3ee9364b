-- dead_delete: forgets dead letters. Their results, if any are left, live on.
--
-- ARGV  ids...
-- Returns how many there were.

require_type(DEAD, 'zset')
require_type(RECORDS, 'hash')
redis.call('DEL', NIL)
redis.call('ZREM', DEAD, unpack(ARGV))
return redis.call('HDEL', RECORDS, unpack(ARGV))
