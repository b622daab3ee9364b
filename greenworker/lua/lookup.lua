-- lookup: where a message is, or how it ended.
--
-- ARGV  id
-- Returns {'ended', result} | {'scheduled', attempt, due ms, now ms} | {'started', wid}
--         | {'waiting'} | {'unknown'}

local id = ARGV[1]
local envelope = redis.call('HGET', MSG, id)
if not envelope then
  local result = redis.call('GET', result_key(id))
  if result then return {'ended', result} end
  -- A dead letter outlives its result.
  local record = redis.call('HGET', RECORDS, id)
  if record then return {'ended', string.match(record, '^[^\n]*\n[^\n]*\n([^\n]*)') or ''} end
  return {'unknown'}
end
local due = redis.call('ZSCORE', SCHEDULED, id)
if due then
  -- What came back from a dead worker waits its jitter out: it is waiting, not delayed.
  if came_back(due) then return {'waiting'} end
  local _, attempt = head(envelope)
  return {'scheduled', tonumber(attempt or 0), tonumber(due), now_ms()}
end
for _, wid in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
  if redis.call('HEXISTS', processing_key(wid), id) == 1 then return {'started', wid} end
end
for _, wid in ipairs(redis.call('SMEMBERS', CORPSES)) do
  if redis.call('HEXISTS', processing_key(wid), id) == 1 then return {'started', wid} end
end
return {'waiting'}
