-- lookup: where a message is, or how it ended.
--
-- ARGV  id
-- Returns {'ended', result} | {'scheduled', head, ms until it expires, ms until it is due}
--         | {'started', head, -1, wid} | {'waiting', head, ms until it expires} | {'unknown'};
--         head is the envelope's first line, and -1 is never.
--
-- What waits, in its queue or for its time, when its expires has passed has ended, whether anybody
-- claims there or not: nothing can run it any more, and the claim that meets it keeps this very result. So has
-- what was cancelled.

local id = ARGV[1]
local EXPIRED = '{"state":"EXPIRED"}'
local envelope = redis.call('HGET', MSG, id)
if not envelope then
  local result = redis.call('GET', result_key(id))
  if result then return {'ended', result} end
  -- A dead letter outlives its result.
  local record = redis.call('HGET', RECORDS, id)
  if record then return {'ended', string.match(record, '^[^\n]*\n[^\n]*\n([^\n]*)') or ''} end
  return {'unknown'}
end
local line = string.match(envelope, '^[^\n]*')
local due = redis.call('ZSCORE', SCHEDULED, id)
if not due then
  for _, wid in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
    if redis.call('HEXISTS', processing_key(wid), id) == 1 then return {'started', line, -1, wid} end
  end
  for _, wid in ipairs(redis.call('SMEMBERS', CORPSES)) do
    if redis.call('HEXISTS', processing_key(wid), id) == 1 then return {'started', line, -1, wid} end
  end
end
if was_replaced(envelope) then
  local result = redis.call('GET', result_key(id))
  if result then return {'ended', result} end
  return {'unknown'}
end
if are_marks() then marks = read_marks() end
if was_cancelled(envelope) or (marks and is_marked(envelope)) then return {'ended', CANCELLED} end
local _, _, _, _, expires = head(envelope)
local now, left = now_ms(), -1
if expires and expires ~= '0' then
  left = tonumber(expires) - now
  if left <= 0 then return {'ended', EXPIRED} end
end
-- What came back from a dead worker waits its jitter out: it is waiting, not delayed.
if not due or came_back(due) then return {'waiting', line, left} end
return {'scheduled', line, left, tonumber(due) - now}
