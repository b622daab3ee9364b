-- promote: what is due becomes ready.
--
-- ARGV  n
-- Returns {promoted, ms until the next is due or -1, what workers are asked (ask.lua) or ''}: every worker
--         comes here twice a second anyway.

local LATER = 5000  -- ms: what cannot move now

require_type(MSG, 'hash')
require_type(QUEUES, 'set')
redis.call('DEL', NIL)
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', now, 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[1]))
local woken, moved, bytes, refused = {}, 0, 0, nil
for i = 1, #due, 2 do
  if bytes > BUDGET then break end
  local id = due[i]
  local envelope = redis.call('HGET', MSG, id)
  bytes = bytes + #(envelope or '')
  local wrong = wrong_home(envelope)
  if wrong then
    -- It holds up nothing else, and whoever promotes tells of it.
    redis.call('ZADD', SCHEDULED, now + LATER + (came_back(due[i + 1]) and CAME_BACK or 0), id)
    refused = wrong
  else
    -- What a dead worker held has waited its turn already, and not for all that came since. (Suspects
    -- have a line of their own.)
    local in_front = came_back(due[i + 1]) and not is_suspect(envelope)
    woken[make_ready(id, envelope, in_front) or make_ready_anywhere(id)] = true
    redis.call('ZREM', SCHEDULED, id)
    moved = moved + 1
  end
end
for queue in pairs(woken) do wake(queue) end
if refused then refuse(refused) end
local next_due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]
-- pcall: of a wrong type, it is no reason to promote nothing.
local asked = redis.pcall('GET', ASKED)
return {moved, next_due and math.max(0, tonumber(next_due) - now) or -1, type(asked) == 'string' and asked or ''}
