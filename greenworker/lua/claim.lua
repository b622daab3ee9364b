-- claim: up to n messages into this incarnation's processing list, by queue
-- order, then priority, then age.
--
-- ARGV  wid, seq, n, most bytes, queues...
-- Returns {now ms, next due ms or -1, 1 if more is waiting, id, envelope, id, envelope, ...};
--         {'gone'} when wid is not registered (any more), {'stale'} when seq did not grow.
--
-- A claim takes at most its share of what waits in a queue, at least one, so that
-- a burst is spread over the workers that listen there.

local wid, seq, n, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local PROCESSING, SUSPECTED = processing_key(wid), suspected_key(wid)
local LOOK_AT_MOST, CHUNK, SPREAD_OVER = 1000, 200, 64

require_type(MSG, 'hash')
require_type(PROCESSING, 'hash')
require_type(SUSPECTED, 'set')
-- What waits, before anything is popped: a list of a wrong type is refused here.
local lines = {}
for i = 5, #ARGV do
  local lengths = {waiting = 0, suspects = redis.call('LLEN', suspects_key(ARGV[i]))}
  for priority = 9, 0, -1 do
    lengths[priority] = redis.call('LLEN', ready_key(ARGV[i], priority))
    lengths.waiting = lengths.waiting + lengths[priority]
  end
  if lengths.waiting > 0 then require_type(wake_key(ARGV[i]), 'list') end
  lines[i] = lengths
end

redis.call('DEL', NIL)
if not redis.call('ZSCORE', WORKERS, wid) then return {'gone'} end
if seq <= tonumber(redis.call('HGET', SEQ, wid) or 0) then return {'stale'} end
redis.call('HSET', SEQ, wid, seq)

local now = now_ms()
local reply, held = {now, -1, 0}, {}
local bytes, looked, full = 0, 0, false

local EXPIRED = '{"state":"EXPIRED"}'

-- One popped id: claimed, or ended here. False when it no longer fits this claim.
local function take(id)
  looked = looked + 1
  local envelope = redis.call('HGET', MSG, id)
  local name = #id <= 64 and string.match(id, '^[%w_.:/@-]+$')
  if not envelope or not name then
    -- Ids are pushed by our scripts only: anything else in a list is not ours.
    count('foreign')
    if envelope then redis.call('HDEL', MSG, id) end
    -- Under its own name only if it can be one: else the name may be what people keep private.
    name = name or 'foreign:' .. redis.sha1hex(id)
    bury(name, 0, failure('MalformedMessage', 'an entry that no push made'), now, 'malformed', wid, envelope or id)
    return true
  end
  local _, _, _, _, expires, ttl = head(envelope)
  if not expires or #envelope > LARGEST then
    count('foreign')
    local version = string.match(envelope, '^(%d+) ')
    local what = 'not an envelope'
    if expires then
      what = 'an envelope of ' .. #envelope .. ' bytes, the limit is ' .. LARGEST
    elseif version and version ~= '1' then
      what = 'an envelope of an unknown version'
    end
    bury(id, 3600000, failure('MalformedMessage', what), now, 'malformed', wid, envelope)
    return true
  end
  if expires ~= '0' and tonumber(expires) <= now then
    finish(id, 'expired', tonumber(ttl), EXPIRED)
    return true
  end
  if bytes > 0 and bytes + #envelope > most then return false end
  bytes = bytes + #envelope
  held[#held + 1] = id
  held[#held + 1] = seq
  reply[#reply + 1] = id
  reply[#reply + 1] = envelope
  return true
end

local function pop(key, room)
  while room > 0 and not full and looked < LOOK_AT_MOST do
    local ids = redis.call('RPOP', key, math.min(room, CHUNK))
    if not ids then return end
    for i, id in ipairs(ids) do
      local before = #held
      if not take(id) then
        -- Back in order, the oldest last pushed: it is the next one popped.
        for j = #ids, i, -1 do redis.call('RPUSH', key, ids[j]) end
        full = true
        break
      end
      if #held > before then room = room - 1 end
    end
  end
end

-- Whether a suspect must run without other suspects.
local function runs_alone(id)
  local deliveries = head(id and redis.call('HGET', MSG, id) or '')
  return deliveries and tonumber(deliveries) >= ALONE_AFTER
end

-- Suspects: a few at once, or one that must run alone.
local function pop_suspects(key, room)
  local few = redis.call('SCARD', SUSPECTED)
  if few == 1 and runs_alone(redis.call('SRANDMEMBER', SUSPECTED)) then return end
  while few < FEW and room > 0 and not full and looked < LOOK_AT_MOST do
    -- One by one: behind one that has expired may wait one that runs alone.
    local id = redis.call('LINDEX', key, -1)
    local alone = runs_alone(id)
    if not id or alone and few > 0 then return end
    local before = #held
    full = not take(id)
    if full then return end
    redis.call('RPOP', key)
    if #held > before then
      redis.call('SADD', SUSPECTED, id)
      few, room = few + 1, room - 1
      if alone then return end
    end
  end
end

local function share(queue, waiting)
  local consumers = redis.call('SMEMBERS', consumers_key(queue))
  if #consumers < 2 then return waiting end
  local part = math.ceil(waiting / #consumers)
  if #consumers > SPREAD_OVER then return part end
  -- Even out what is held, too: the first claim of a burst takes its half, and
  -- the second one takes the other half, not a quarter.
  local all = waiting
  for _, other in ipairs(consumers) do all = all + redis.call('HLEN', processing_key(other)) end
  local even = math.ceil(all / #consumers) - redis.call('HLEN', PROCESSING)
  return math.max(part, even, 1)
end

for i = 5, #ARGV do
  local queue, lengths = ARGV[i], lines[i]
  if lengths.suspects > 0 then pop_suspects(suspects_key(queue), n - #held / 2) end
  local waiting = lengths.waiting
  if waiting > 0 then
    local room = math.min(n - #held / 2, share(queue, waiting))
    for priority = 9, 0, -1 do
      if lengths[priority] > 0 then
        local before = #held
        pop(ready_key(queue, priority), room)
        room = room - (#held - before) / 2
        waiting = waiting - lengths[priority] + redis.call('LLEN', ready_key(queue, priority))
      end
    end
    if waiting > 0 then
      reply[3] = 1
      wake(queue)
    end
  end
end

if #held > 0 then redis.call('HSET', PROCESSING, unpack(held)) end
local due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')
if due[2] then reply[2] = tonumber(due[2]) end
close()
return reply
