-- release: a graceful end. What the incarnation still holds goes back to the front
-- of its queue and is charged nothing; when nothing is left it is unregistered.
--
-- ARGV  wid, n
-- Returns how many it still holds: call again until 0.

local wid, n = ARGV[1], tonumber(ARGV[2])
local PROCESSING = processing_key(wid)
redis.call('DEL', NIL)

local held = some_of(wid, n)
-- The oldest last: it is the next one popped. (Of more than some hundred the order is not kept.)
for i = #held - 1, 1, -2 do
  local id = held[i]
  local queue = make_ready(id, redis.call('HGET', MSG, id), true)
  if queue then wake(queue) end
  redis.call('HDEL', PROCESSING, id)
end
local left = redis.call('HLEN', PROCESSING)
if left == 0 then depart(wid) end
return left
