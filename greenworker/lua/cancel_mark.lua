-- cancel_mark: all that was sent until now and fits a mark is cancelled (marks.lua), in one step, however many that are.
--
-- ARGV  mark, how many marks there may be
-- Returns the moment in ms until which it counts; -1 when there are too many already.

local mark, most = ARGV[1], tonumber(ARGV[2])
require_type(MARKS, 'hash')
require_type(PAUSED, 'set')
redis.call('DEL', NIL)

-- One field is the pass that is under way.
local passed = redis.call('HGET', MARKS, 'pass')
local count = redis.call('HLEN', MARKS) - (passed and 1 or 0)
if count >= most and redis.call('HEXISTS', MARKS, mark) == 0 then return -1 end
local now = now_ms()
-- What the pass that is under way has been past may be what this one is about: the next one sees all of it.
local pass = tonumber(string.match(passed or '', '^%d+') or 0) + 1
redis.call('HSET', MARKS, mark, string.format('%.0f %.0f', now, pass))
redis.call('SADD', PAUSED, MARKED)
-- Whoever waits for a result looks again.
redis.call('PUBLISH', done_channel(''), '')
return now
