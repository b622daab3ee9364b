-- release: a graceful end. What the incarnation still holds goes back to the front
-- of its queue and is charged nothing; when nothing is left it is unregistered.
--
-- ARGV  wid, n
-- Returns how many it still holds: call again until 0.

local wid, n = ARGV[1], tonumber(ARGV[2])
local PROCESSING = processing_key(wid)
require_type(MSG, 'hash')
require_type(QUEUES, 'set')
local held = some_of(wid, n)
local ids, envelopes, bytes = {}, {}, 0
for i = 1, #held, 2 do
  if bytes > BUDGET then break end
  local id = held[i]
  local envelope = redis.call('HGET', MSG, id)
  if envelope then require_home(envelope) end
  ids[#ids + 1], envelopes[id], bytes = id, envelope, bytes + #(envelope or '')
end
redis.call('DEL', NIL)
local now = now_ms()

-- The oldest last: it is the next one popped. (Of more than some hundred the order is not kept.)
for i = #ids, 1, -1 do
  local id = ids[i]
  if envelopes[id] then
    make_ready(id, envelopes[id], true, now)
    give_back(id, now, keys_in(envelopes[id]))
  end
  redis.call('HDEL', PROCESSING, id)
end
close_lines(now)
wake_all()
local left = redis.call('HLEN', PROCESSING)
if left == 0 then depart(wid) end
return left
