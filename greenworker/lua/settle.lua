-- settle: ends deliveries and gives them up, in one step with their results.
--
-- ARGV  wid, n, then for each of n deliveries: id, seq, outcome, a, b, c
--       done    a = result ttl ms, b = result, c = the lock that it may hold, or ''
--       retry   a = delay ms, b = the complete replacement envelope
--       later   as retry, for what has not run (counts as no retry)
--       dead    a = result ttl ms, b = result, c = reason
--       cancelled  as done
--       release back to where it came from, next in line
--       throttled  as release, and its key is held: a = for so many ms, or -1 for as long as we think; c = which of its
--                  keys, or '' for the first
--       and then for each of them that has keys: id, ms that it ran, keys as its head has them
-- What was cancelled meanwhile neither waits nor runs again: a retry, a later or a release ends it.
-- Returns 1 for each, or 0 when the delivery was no longer this incarnation's.

local wid = ARGV[1]
local PROCESSING, SUSPECTED = processing_key(wid), suspected_key(wid)
local FIELDS, FIRST, BEHIND = 6, 3, 3 + 6 * tonumber(ARGV[2])
local GOES_BACK = {release = true, throttled = true}
local IS_END = {done = true, cancelled = true, dead = true}
local PASSED = {done = true, retry = false, dead = false}

require_type(MSG, 'hash')
-- Whoever was reaped settles nothing, even what nobody has taken from it yet.
local alive = redis.call('ZSCORE', WORKERS, wid)

local ids = {}
local may_wait = false  -- whether one of them is to go back, or to be scheduled
for i = FIRST, BEHIND - 1, FIELDS do
  ids[#ids + 1] = ARGV[i]
  may_wait = may_wait or not IS_END[ARGV[i + 2]]
end
if may_wait then
  require_type(SCHEDULED, 'zset')
  require_type(QUEUES, 'set')
end
local ran = {}
for i = BEHIND, #ARGV, 3 do ran[ARGV[i]] = {took = tonumber(ARGV[i + 1]) or 0, keys = ARGV[i + 2]} end
local held = {}
for k, seq in ipairs(redis.call('HMGET', PROCESSING, unpack(ids))) do held[ids[k]] = seq end
-- All that may be refused, before the first write.
local suspected, cleared, waiting = {}, {}, {}
for _, id in ipairs(read('zset', 'ZRANGE', SUSPECTED, 0, -1)) do suspected[id] = true end
if next(suspected) then
  require_type(solitary_key(wid), 'string')
  require_type(QUEUES, 'set')
  for _, queue in ipairs(redis.call('SMEMBERS', QUEUES)) do
    if redis.call('LLEN', suspects_key(queue)) > 0 then
      require_type(wake_key(queue), 'list')
      waiting[#waiting + 1] = queue
    end
  end
end
for k, id in ipairs(ids) do
  local i = FIRST + (k - 1) * FIELDS
  if GOES_BACK[ARGV[i + 2]] and held[id] == ARGV[i + 1] then require_home(redis.call('HGET', MSG, id)) end
end

redis.call('DEL', NIL)
local now = now_ms()
local reply, settled = {}, {}

-- What its run tells of its keys; then its permits come back.
local function note_run(id, outcome, a, named)  -- seldom
  local run = ran[id]
  local first, second = split_keys(run.keys)
  if not first then return end
  local began = now - run.took
  if outcome == 'throttled' then
    keyed.throttle(keyed.known(named == second and second or first), tonumber(a) or -1, began, now)
  elseif PASSED[outcome] ~= nil then
    keyed.note_end(keyed.known(first), run.took, PASSED[outcome], began, now)
    if second then keyed.note_end(keyed.known(second), run.took, PASSED[outcome], began, now) end
  end
  keyed.give_back(id, now, first, second)
end

-- Whatever is neither done nor cancelled; a, b and c as above.
local function end_otherwise(id, outcome, a, b, c)  -- seldom
  local envelope = redis.call('HGET', MSG, id)
  if envelope and not ran[id] and keys_in(envelope) then keyed.give_back(id, now, keys_in(envelope)) end
  if outcome == 'dead' then
    bury(id, tonumber(a), b, now, c, wid, envelope or '')
  elseif was_cancelled(envelope) then
    finish(id, 'cancelled', tonumber((select(6, head(envelope)))), CANCELLED, (lock_in(envelope)))
  elseif GOES_BACK[outcome] then
    if outcome == 'throttled' then
      count('throttled')
      -- It has run here: were it unknown elsewhere, its time would begin anew.
      local noted = envelope and string.find(string.match(envelope, '^[^\n]*'), ' unknown=', 1, true)
      if noted then
        envelope = string.gsub(envelope, ' unknown=[^ \n]*', '', 1)
        redis.call('HSET', MSG, id, envelope)
      end
    end
    if envelope then make_ready(id, envelope, true, now) end
    if envelope and outcome == 'throttled' then
      local _, queue, priority, first, second = home(envelope)
      if second then keyed.to_front(c == second and second or first, first, second, queue, priority, now) end
    end
  else
    redis.call('HSET', MSG, id, b)
    redis.call('ZADD', SCHEDULED, now + tonumber(a), id)
    if outcome == 'retry' then count('retried') end
  end
end

for k, id in ipairs(ids) do
  local i = FIRST + (k - 1) * FIELDS
  if alive and held[id] == ARGV[i + 1] then
    local outcome = ARGV[i + 2]
    reply[k] = 1
    held[id] = nil
    settled[#settled + 1] = id
    if ran[id] then note_run(id, outcome, ARGV[i + 3], ARGV[i + 5]) end
    if outcome == 'done' then
      finish(id, 'done', tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5])
    elseif outcome == 'cancelled' then
      finish(id, 'cancelled', tonumber(ARGV[i + 3]), ARGV[i + 4], ARGV[i + 5])
    else
      end_otherwise(id, unpack(ARGV, i + 2, i + 5))
    end
    if suspected[id] then cleared[#cleared + 1] = id end
  else
    reply[k] = 0
  end
end

if #settled > 0 then redis.call('HDEL', PROCESSING, unpack(settled)) end
if #cleared > 0 then
  redis.call('ZREM', SUSPECTED, unpack(cleared))
  local solitary = redis.call('GET', solitary_key(wid))
  for _, id in ipairs(cleared) do
    if id == solitary then redis.call('DEL', solitary_key(wid)) end
  end
  for _, queue in ipairs(waiting) do to_wake[queue] = true end
end
close_lines(now)
wake_all()
close()
return reply
