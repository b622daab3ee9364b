-- Stands before claim, behind turns.lua: how suspects are taken.

-- Whether a key of a suspect refuses it.
local function is_refused(id)
  local first, second = keys_in(redis.call('HGET', MSG, id) or '')
  return first and keyed.refusal(keyed.known(first), now) or second and keyed.refusal(keyed.known(second), now)
end

-- It waits behind the other suspects.
local function goes_behind(key)
  looked = looked + 1
  redis.call('RPOPLPUSH', key, key)
end

-- The next suspect, if it still is one to run: it leaves its list for what is held, or has ended.
local function pop_suspect(key, id)
  local before = #held
  local first, second = keys_in(redis.call('HGET', MSG, id) or '')
  full = not take(id)
  if full then return false end
  redis.call('RPOP', key)
  if #held == before then return false end
  start_all(id, first, second)
  redis.call('ZADD', SUSPECTED, now, id)
  return true
end

-- Suspects: a few at once, or one without others of them. `beside`: also one that would run
-- without anything else, if only it could.
local function pop_suspects(key, room, beside)
  local few = redis.call('ZCARD', SUSPECTED)
  if few == 1 and crashes_of(redis.call('ZRANGE', SUSPECTED, 0, 0)[1]) >= ALONE_AFTER then return end
  -- (Each once: those that a limit refuses go round.)
  local left = math.min(redis.call('LLEN', key), FEW * 2)
  while few < FEW and room > 0 and left > 0 and not full and looked < LOOK_AT_MOST do
    left = left - 1
    -- One by one: behind one that has expired may wait one that runs alone.
    local id = redis.call('LINDEX', key, -1)
    local crashes = crashes_of(id)
    if not id or (crashes >= SOLITARY_AFTER and not beside) or (crashes >= ALONE_AFTER and few > 0) then return end
    if is_refused(id) then
      goes_behind(key)
    elseif pop_suspect(key, id) then
      few, room = few + 1, room - 1
      if crashes >= ALONE_AFTER then return end
    end
  end
end

-- Who has run for so long is held against nobody any more: it may have no end. (If its worker dies, it is
-- charged as all the others, unless there are suspects by then.)
if suspected_since and tonumber(suspected_since) <= now - PATIENCE then
  redis.call('ZREMRANGEBYSCORE', SUSPECTED, '-inf', now - PATIENCE)
end
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
  for i = 5, #ARGV do
    local queue, line = ARGV[i], lines[i]
    local key = suspects_key(queue)
    local left = math.min(line.suspects, FEW * 2)
    while left > 0 and n > 0 and looked < LOOK_AT_MOST do
      left = left - 1
      local id = redis.call('LINDEX', key, -1)
      if not id or crashes_of(id) < SOLITARY_AFTER then break end
      local refused = is_refused(id)
      if holds_any and not refused then
        beside[queue] = now - waits_since(queue) >= PATIENCE
        if line.first and not beside[queue] then return true end
        break
      end
      if refused then
        goes_behind(key)
      elseif pop_suspect(key, id) then
        redis.call('SET', SOLITARY, id)
        redis.call('DEL', room_key(queue))
        return true
      end
      if full then break end
    end
  end
end
