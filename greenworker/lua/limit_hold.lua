-- limit_hold: nothing of these keys is handed out, or something is again.
--
-- ARGV  for how many ms, or -1 for until further notice, or 0: they go on; keys...
-- Returns for each 1, or 0 when nothing was known of it.

require_type(KNOWN, 'hash')
require_type(LATER, 'zset')
redis.call('DEL', NIL)
local now, ms = now_ms(), tonumber(ARGV[1])
local reply = {}
for i = 2, #ARGV do
  reply[#reply + 1] = redis.call('HEXISTS', KNOWN, ARGV[i])
  local one = known(ARGV[i])
  refusal(one, now)  -- before that: by the clock of now
  one.changed = true
  if ms == 0 then
    one.phase, one.hold, one.strikes, one.struck = CLOSED, 0, 0, math.min(one.struck, now)
  else
    one.phase, one.hold = STOPPED, ms < 0 and FOR_EVER or now + ms
  end
  redis.call('ZREM', LATER, ARGV[i])
  look_again(one, now)
end
close_lines(now)
wake_all()
return reply
