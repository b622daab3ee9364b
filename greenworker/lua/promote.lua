-- promote: what is due becomes ready.
--
-- ARGV  n
-- Returns {promoted, ms until the next is due or -1}.

require_type(MSG, 'hash')
require_type(QUEUES, 'set')
redis.call('DEL', NIL)
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
local woken, moved, bytes = {}, 0, 0
for _, id in ipairs(due) do
  if bytes > BUDGET then break end
  local envelope = redis.call('HGET', MSG, id)
  -- What a dead worker held has waited its turn already, and not for all that came since. (Suspects
  -- have a line of their own.)
  local came_back = string.find(envelope or '', '^1 1 ') ~= nil
  local queue = make_ready(id, envelope, came_back) or make_ready_anywhere(id)
  moved, bytes = moved + 1, bytes + #(envelope or '')
  -- One by one: where a list of a wrong type ends the script, what was moved has left.
  redis.call('ZREM', SCHEDULED, id)
  woken[queue] = true
end
for queue in pairs(woken) do wake(queue) end
local next_due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]
return {moved, next_due and math.max(0, tonumber(next_due) - now) or -1}
