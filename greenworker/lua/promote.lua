-- promote: what is due becomes ready.
--
-- ARGV  n
-- Returns {promoted, ms until the next is due or -1}.

require_type(MSG, 'hash')
redis.call('DEL', NIL)
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
local woken = {}
for _, id in ipairs(due) do
  local queue = make_ready(id, redis.call('HGET', MSG, id))
  if not queue then
    -- Nobody can tell where it belongs: the next claim there buries it.
    queue = 'default'
    redis.call('LPUSH', ready_key(queue, 5), id)
  end
  -- One by one: where a list of a wrong type ends the script, what was moved has left.
  redis.call('ZREM', SCHEDULED, id)
  woken[queue] = true
end
for queue in pairs(woken) do wake(queue) end
local next_due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]
return {#due, next_due and math.max(0, tonumber(next_due) - now) or -1}
