-- claim: up to n messages into this incarnation's processing list, by queue
-- order, then priority, then age.
--
-- ARGV  wid, seq, n, most bytes, queues...
-- Returns {now ms, next due ms or -1, 1 if more is waiting, or 2 if nothing more is for this
--         worker until it has settled what it holds, id, envelope, id, envelope, ...};
--         {'gone'} when wid is not registered (any more), {'stale'} when seq did not grow.
--
-- A claim takes at most its share of what waits in a queue, at least one, so that
-- a burst is spread over the workers that listen there; and nothing of a queue that is paused.

local wid, seq, n, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local PROCESSING, SUSPECTED, SOLITARY = processing_key(wid), suspected_key(wid), solitary_key(wid)
local LOOK_AT_MOST, CHUNK, SPREAD_OVER = 1000, 200, 64
-- ms: for so long a worker claims nothing else for the sake of a suspect, before and while it runs; and how long
-- it is known that it was not enough.
local PATIENCE, IMPATIENCE = 60000, 600000

require_type(MSG, 'hash')
require_type(PROCESSING, 'hash')
require_type(SUSPECTED, 'zset')
require_type(SOLITARY, 'string')
require_type(PAUSED, 'set')

-- What a worker may take of a queue, and whether it is the first of those who listen there.
local function share(queue, waiting)
  local consumers = redis.call('SMEMBERS', consumers_key(queue))
  local first = redis.call('SISMEMBER', consumers_key(queue), wid) == 1
  for _, other in ipairs(consumers) do first = first and wid <= other end
  if #consumers < 2 then return waiting, first end
  local part = math.ceil(waiting / #consumers)
  if #consumers > SPREAD_OVER then return part, first end
  -- Even out what is held, too: the first claim of a burst takes its half, and
  -- the second one takes the other half, not a quarter.
  local all = waiting
  for _, other in ipairs(consumers) do all = all + redis.call('HLEN', processing_key(other)) end
  local even = math.ceil(all / #consumers) - redis.call('HLEN', PROCESSING)
  return math.max(part, even, 1), first
end

-- All that is looked at, before anything is popped: what is of a wrong type is refused here.
local lines = {}
local paused = redis.call('SMISMEMBER', PAUSED, MARKED, unpack(ARGV, 5))
if paused[1] == 1 then
  require_type(MARKS, 'hash')
  marks = read_marks()
end
for i = 5, #ARGV do
  local queue = ARGV[i]
  local line = {waiting = 0, suspects = 0}
  -- A paused queue is as one where nothing waits.
  if paused[i - 3] == 0 then
    line.suspects = redis.call('LLEN', suspects_key(queue))
    for priority = 9, 0, -1 do
      line[priority] = redis.call('LLEN', ready_key(queue, priority))
      line.waiting = line.waiting + line[priority]
    end
  end
  if line.waiting + line.suspects > 0 then
    require_type(wake_key(queue), 'list')
    require_type(room_key(queue), 'string')
    line.share, line.first = share(queue, line.waiting)
  end
  lines[i] = line
end
local due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')
local holds_any = redis.call('HLEN', PROCESSING) > 0

redis.call('DEL', NIL)
if not redis.call('ZSCORE', WORKERS, wid) then return {'gone'} end
if seq <= (tonumber(redis.call('HGET', SEQ, wid) or 0) or 0) then return {'stale'} end
redis.call('HSET', SEQ, wid, seq)

local now = now_ms()
local reply, held = {now, -1, 0}, {}
local bytes, looked, full = 0, 0, false

-- One popped id: claimed, or ended here. False when it no longer fits this claim.
local function take(id)
  looked = looked + 1
  local envelope = redis.call('HGET', MSG, id)
  if envelope then
    local size = math.min(#envelope, LARGEST)
    if bytes > 0 and bytes + size > most then return false end
    bytes = bytes + size
  end
  if weeded(id, envelope, now, wid) then return true end
  local lock, mode = lock_in(envelope)
  if lock and mode ~= 'd' then release_lock(id, lock) end  -- it holds that until it is started
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

-- The next suspect, if it still is one to run: it leaves its list for what is held, or has ended.
local function pop_suspect(key, id)
  local before = #held
  full = not take(id)
  if full then return false end
  redis.call('RPOP', key)
  if #held == before then return false end
  redis.call('ZADD', SUSPECTED, now, id)
  return true
end

-- Suspects: a few at once, or one without others of them. `beside`: also one that would run
-- without anything else, if only it could.
local function pop_suspects(key, room, beside)
  local few = redis.call('ZCARD', SUSPECTED)
  if few == 1 and crashes_of(redis.call('ZRANGE', SUSPECTED, 0, 0)[1]) >= ALONE_AFTER then return end
  while few < FEW and room > 0 and not full and looked < LOOK_AT_MOST do
    -- One by one: behind one that has expired may wait one that runs alone.
    local id = redis.call('LINDEX', key, -1)
    local crashes = crashes_of(id)
    if not id or (crashes >= SOLITARY_AFTER and not beside) or (crashes >= ALONE_AFTER and few > 0) then return end
    if pop_suspect(key, id) then
      few, room = few + 1, room - 1
      if crashes >= ALONE_AFTER then return end
    end
  end
end

-- Who has run for so long is held against nobody any more: it may have no end. (If its worker dies, it is
-- charged as all the others, unless there are suspects by then.)
redis.call('ZREMRANGEBYSCORE', SUSPECTED, '-inf', now - PATIENCE)
local solitary = redis.call('GET', SOLITARY)
if solitary and not (redis.call('ZSCORE', SUSPECTED, solitary) and redis.call('HEXISTS', PROCESSING, solitary) == 1) then
  redis.call('DEL', SOLITARY)
  solitary = nil
end

-- Since when a suspect of this queue has waited for a worker that holds nothing.
local function waits_since(queue)
  local since = tonumber(redis.call('GET', room_key(queue)) or '')
  if not since then
    since = now
    redis.call('SET', room_key(queue), since, 'PX', IMPATIENCE)
  end
  return since
end

-- A suspect that runs without anything else: true when this worker claims nothing besides, for it
-- runs one, or is to. Who holds nothing takes it; else the first of those who listen lets what it
-- holds end, and the others go on. After a minute of that whoever has a slot runs it beside what it
-- holds: neither the suspect nor all else may wait for ever. If that ends the worker, the next one to
-- start holds nothing.
local beside = {}
local function makes_room_for_one()
  if solitary then return true end
  for i = 5, #ARGV do
    local queue, line = ARGV[i], lines[i]
    local key = suspects_key(queue)
    while line.suspects > 0 and n > 0 and looked < LOOK_AT_MOST do
      local id = redis.call('LINDEX', key, -1)
      if not id or crashes_of(id) < SOLITARY_AFTER then break end
      if holds_any then
        beside[queue] = now - waits_since(queue) >= PATIENCE
        if line.first and not beside[queue] then return true end
        break
      end
      if pop_suspect(key, id) then
        redis.call('SET', SOLITARY, id)
        redis.call('DEL', room_key(queue))
        return true
      end
      if full then break end
    end
  end
end

local function claim_from(queue, line)
  if line.suspects > 0 then pop_suspects(suspects_key(queue), n - #held / 2, beside[queue]) end
  local waiting = line.waiting
  if waiting == 0 then return end
  local room = math.min(n - #held / 2, line.share)
  for priority = 9, 0, -1 do
    if line[priority] > 0 then
      local before = #held
      pop(ready_key(queue, priority), room)
      room = room - (#held - before) / 2
      waiting = waiting - line[priority] + redis.call('LLEN', ready_key(queue, priority))
    end
  end
  if waiting > 0 then
    reply[3] = 1
    wake(queue)
  end
end

if makes_room_for_one() then
  reply[3] = 2
  -- It may have taken tokens that are for others.
  for i = 5, #ARGV do
    if lines[i].waiting > 0 then wake(ARGV[i]) end
  end
else
  for i = 5, #ARGV do claim_from(ARGV[i], lines[i]) end
end
if #held > 0 then redis.call('HSET', PROCESSING, unpack(held)) end
if due[2] then reply[2] = tonumber(due[2]) end
close()
return reply
