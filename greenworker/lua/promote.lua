-- promote: what is due becomes ready.
--
-- ARGV  n, wid of whoever asks; and of what it has been told is cancelled, and knows by now: id, seq, id, seq...
-- Returns {promoted, ms until the next is due or -1 (0 while a pass looks at all keys), what workers are asked (ask.lua) or '', {id, seq, ...} of what it
--         holds and is cancelled (cancel.lua), {mark, ms, ...}}: every worker comes here twice a second anyway.

local PUT_OFF = 5000  -- ms: what cannot move now
local LOOK_MOST, FORGET_MOST = 500, 100

require_type(MSG, 'hash')
require_type(QUEUES, 'set')
redis.call('DEL', NIL)
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', now, 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[1]))
local moved, bytes, refused = 0, 0, nil
for i = 1, #due, 2 do
  if bytes > BUDGET then break end
  local id = due[i]
  local envelope = redis.call('HGET', MSG, id)
  bytes = bytes + #(envelope or '')
  local wrong = wrong_home(envelope)
  if wrong then
    -- It holds up nothing else, and whoever promotes tells of it.
    redis.call('ZADD', SCHEDULED, now + PUT_OFF + (came_back(due[i + 1]) and CAME_BACK or 0), id)
    refused = wrong
  else
    -- What a dead worker held has waited its turn already, and not for all that came since. (Suspects
    -- have a line of their own.)
    local in_front = came_back(due[i + 1]) and not is_suspect(envelope)
    make_ready(id, envelope, in_front, now)
    redis.call('ZREM', SCHEDULED, id)
    moved = moved + 1
  end
end
moved = moved + look_at_due(now, tonumber(ARGV[1]))
local looks_on = look_on(now, LOOK_MOST)
forget_idle(now, FORGET_MOST)
close_lines(now)
wake_all()
if refused then refuse(refused) end
local next_due = looks_on and now or next_of_both()
-- pcall: of a wrong type, it is no reason to promote nothing.
local asked = redis.pcall('GET', ASKED)

-- What this worker is to end. Told again until it says that it knows; what it holds no longer is over.
local CANCELS, told, over = cancels_key(ARGV[2]), {}, {}
for i = 3, #ARGV, 2 do
  if redis.pcall('HGET', CANCELS, ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', CANCELS, ARGV[i]) end
end
local cursor, found = '0', {}
while redis.pcall('HLEN', CANCELS) ~= 0 and #found == 0 do
  local scan = redis.pcall('HSCAN', CANCELS, cursor, 'COUNT', 500)
  if scan.err then break end
  cursor, found = unpack(scan)
  if cursor == '0' then break end
end
over = {}
for i = 1, #found, 2 do
  if redis.pcall('HGET', processing_key(ARGV[2]), found[i]) == found[i + 1] then
    told[#told + 1] = found[i]
    told[#told + 1] = tonumber(found[i + 1])
  else
    over[#over + 1] = found[i]
  end
end
if #over > 0 then redis.call('HDEL', CANCELS, unpack(over)) end

local marked = {}
for mark, moment in pairs(marks_if_told()) do
  marked[#marked + 1] = mark
  marked[#marked + 1] = moment
end
return {moved, next_due and math.max(0, tonumber(next_due) - now) or -1, type(asked) == 'string' and asked or '',
  told, marked}
