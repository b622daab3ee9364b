-- cancel_comb: goes on with a pass through all messages, and cancels those that a mark hits one by one. A mark leaves when a
-- pass that began after it has been through: then nothing that was sent before it is left.
--
-- ARGV  who asks, most bytes
-- Returns {1 if there is more to do; 0 if not, or if somebody else is at it, messages looked at, cancelled or told}.
--
-- HSCAN shows each field that is there from its beginning to its end, whatever comes and goes meanwhile; and a message is
-- a field of `msg` from its push to its end, wherever it moves. So whoever goes on with a pass, and after whatever
-- pause, it is one pass. But not on another server process (a restart, a failover): hashes are in another order there, and
-- a pass begins anew. marks['pass']: its number, cursor, how many to ask for, when, by whom and where it was taken on.

local who, most = ARGV[1], tonumber(ARGV[2])
local LEAST, COUNT_MOST, MINE_FOR = 4, 500, 1000

-- pcall: one that may not know where it is takes it for the same as before.
local info = redis.pcall('INFO', 'server')
local here = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '-'

require_type(MSG, 'hash')
require_type(SCHEDULED, 'zset')
require_type(MARKS, 'hash')
require_type(PAUSED, 'set')
for _, wid in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do require_type(cancels_key(wid), 'hash') end
redis.call('DEL', NIL)

local now = now_ms()
local pass, cursor, count, at, by, where =
  string.match(redis.call('HGET', MARKS, 'pass') or '', '^(%d+) (%d+) (%d+) (%d+) (%S+) (%S+)$')
if not pass then pass, cursor, count, at, by = 0, '0', LEAST, 0, '-' end
if where ~= here then cursor = '0' end
if by ~= '-' and by ~= who and math.abs(now - tonumber(at)) < MINE_FOR then return {0, 0, 0} end
marks = read_marks()
if cursor == '0' then
  if not next(marks) then
    -- Somebody has deleted them by hand.
    redis.call('DEL', MARKS)
    redis.call('SREM', PAUSED, MARKED)
    return {0, 0, 0}
  end
  pass = pass + 1
end

local found
cursor, found = unpack(redis.call('HSCAN', MSG, cursor, 'COUNT', count))
local hit, envelopes, bytes = marked_among(found)
local holders, cancelled = holders_of(hit), 0
for _, id in ipairs(hit) do
  if not has_ended(envelopes[id], holders[id], now) then
    call_off(id, envelopes[id], holders[id])
    cancelled = cancelled + 1
  end
end

if cursor == '0' then
  local over, left = {}, false
  local all = redis.call('HGETALL', MARKS)
  for i = 1, #all, 2 do
    local needs = string.match(all[i + 1], '^%d+ (%d+)$')
    if needs and tonumber(needs) <= tonumber(pass) then over[#over + 1] = all[i] end
    left = left or (needs and tonumber(needs) > tonumber(pass))
  end
  if #over > 0 then redis.call('HDEL', MARKS, unpack(over)) end
  if not left then
    redis.call('DEL', MARKS)
    redis.call('SREM', PAUSED, MARKED)
    close()
    return {0, #found / 2, cancelled}
  end
end
-- As many as would fill a call if all were like these.
count = math.max(1, math.min(COUNT_MOST, count * 4, math.floor(most * #found / 2 / math.max(1, bytes))))
redis.call('HSET', MARKS, 'pass', string.format('%.0f %s %.0f %.0f %s %s', pass, cursor, count, now, who, here))
close()
return {1, #found / 2, cancelled}
