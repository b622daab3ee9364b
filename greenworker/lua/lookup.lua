-- lookup: where a message is, or how it ended.
--
-- ARGV  id
-- Returns {'ended', result} | {'scheduled', head, due ms, now ms} | {'started', head, wid}
--         | {'waiting', head} | {'unknown'}; head is the envelope's first line

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
local line = string.match(envelope, '^[^\n]*')
local due = redis.call('ZSCORE', SCHEDULED, id)
if due then
  -- What came back from a dead worker waits its jitter out: it is waiting, not delayed.
  if came_back(due) then return {'waiting', line} end
  return {'scheduled', line, tonumber(due), now_ms()}
end
for _, wid in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do
  if redis.call('HEXISTS', processing_key(wid), id) == 1 then return {'started', line, wid} end
end
for _, wid in ipairs(redis.call('SMEMBERS', CORPSES)) do
  if redis.call('HEXISTS', processing_key(wid), id) == 1 then return {'started', line, wid} end
end
return {'waiting', line}
