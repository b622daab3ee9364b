-- claim: up to n messages into this incarnation's processing list, by queue
-- order, then priority, then age.
--
-- In a queue and priority, what has a key and what has none take turns, and so do the keys (lines.lua).
--
-- ARGV  wid, seq, n, most bytes, queues...
-- Returns {now ms, next due ms or -1, 1 if more is waiting, or 2 if nothing more is for this
--         worker until it has settled what it holds, lengths, text}: the text is id, envelope, id, envelope, …
--         and the lengths are theirs, with blanks between (two strings are read faster than two for each);
--         {'gone'} when wid is not registered (any more), {'stale'} when seq did not grow.
--
-- A claim takes at most its share of what waits in a queue, at least one, so that
-- a burst is spread over the workers that listen there; and nothing of a queue that is paused.

local wid, seq, n, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local PROCESSING, SUSPECTED, SOLITARY = processing_key(wid), suspected_key(wid), solitary_key(wid)
local LOOK_AT_MOST, CHUNK, READ_FIRST, READ_MOST = 1000, 200, 16, 64
-- ms: for so long a worker claims nothing else for the sake of a suspect, before and while it runs; and how long
-- it is known that it was not enough.
local PATIENCE, IMPATIENCE = 60000, 600000
-- So many pairs go over from one key to their others at a time, and then none for so many ms.
local PASS_MOST, PASS_PAUSE = 500, 50

require_type(MSG, 'hash')
local holds_any = read('hash', 'HLEN', PROCESSING) > 0
local solitary = read('string', 'GET', SOLITARY)
local suspected_since = read('zset', 'ZRANGE', SUSPECTED, 0, 0, 'WITHSCORES')[2]

-- All that is looked at, before anything is popped: what is of a wrong type is refused here.
local lines = {}
local in_lines = redis.pcall('HMGET', KEYED, unpack(ARGV, 5))
if in_lines.err then refuse(KEYED .. ' is not a hash') end
local are_keyed, are_suspects = false, false
local paused = read('set', 'SMISMEMBER', PAUSED, MARKED, unpack(ARGV, 5))
if paused[1] == 1 then
  require_type(MARKS, 'hash')
  marks = read_marks()
end
for i = 5, #ARGV do
  local queue = ARGV[i]
  local line = {waiting = 0, suspects = 0, keyed = 0}
  -- A paused queue is as one where nothing waits.
  if paused[i - 3] == 0 then
    count_waiting(queue, line)
    -- (What is no number is somebody's: there may be lines.)
    line.keyed = in_lines[i - 4] and (tonumber(string.match(in_lines[i - 4], '^%d+$')) or 1) or 0
    if line.keyed > 0 then
      are_keyed = true
      for priority = 9, 0, -1 do require_type(turn_key(queue, priority), 'list') end
    end
  end
  if line.waiting + line.keyed + line.suspects > 0 then
    tokens[queue] = read('list', 'LLEN', wake_key(queue))
    if line.suspects > 0 then
      are_suspects = true
      require_type(room_key(queue), 'string')
    end
    line.share, line.first, line.plain_share = share(queue, line.waiting + line.keyed, line.waiting, wid)
  end
  lines[i] = line
end
local due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]

redis.call('DEL', NIL)
if not redis.call('ZSCORE', WORKERS, wid) then return {'gone'} end
if seq <= (tonumber(redis.call('HGET', SEQ, wid) or 0) or 0) then return {'stale'} end
redis.call('HSET', SEQ, wid, seq)

local now = now_ms()
local reply, held = {now, -1, 0}, {}
local lengths, texts = {}, {}
local bytes, looked, full = 0, 0, false

-- A worker of an older version, to whom keys mean nothing, has put it among those without: it goes where it belongs. False
-- where it cannot: that costs the limit.
local function goes_to_line(id, envelope, queue)
  local _, of, _, first = home(envelope)
  if not first or of ~= queue or wrong_home(envelope) or mistyped(QUEUES, 'set') then return false end
  make_ready(id, envelope, false, now)
  return true
end

-- Whether it is not claimed, but has ended or moved. If it is, what it holds until it is started is given back.
local function ends_here(id, envelope, queue)  -- seldom
  if weeded(id, envelope, now, wid) then return true end
  local line = string.sub(envelope, 1, string.find(envelope, '\n', 1, true) or 0)
  if queue and string.find(line, ' keys=', 1, true) and goes_to_line(id, envelope, queue) then return true end
  if string.find(line, ' unique=', 1, true) then
    local lock, mode = lock_in(line)
    if lock and mode ~= 'd' then release_lock(id, lock) end
  end
  return false
end

-- What nothing is to be asked of, as nearly all is: ours, without an expires, a key or a lock. (Most are short, and then it is
-- quicker to look through all of it than to cut off the head.)
local function is_plain(id, envelope)
  return envelope and not marks and #envelope < 2000 and string.find(envelope, '^1 %d+ %d+ %d %d+ 0 %d+ %S+ ')
    and not string.find(envelope, ' keys=', 1, true) and not string.find(envelope, ' unique=', 1, true)
    and #id <= 64 and string.find(id, '^[%w_.:/@-]+$')
end

-- One popped id: claimed, or ended here. False when it no longer fits this claim. `envelope`: where it was read before.
-- `queue`: it was among those without a key there.
local function take(id, envelope, queue)
  looked = looked + 1
  if envelope == nil then envelope = redis.call('HGET', MSG, id) end
  if envelope then
    local size = math.min(#envelope, LARGEST)
    if bytes > 0 and bytes + size > most then return false end
    bytes = bytes + size
  end
  if not is_plain(id, envelope) and ends_here(id, envelope, queue) then return true end
  held[#held + 1] = id
  held[#held + 1] = seq
  local n = #texts
  texts[n + 1], texts[n + 2] = id, envelope
  lengths[n + 1], lengths[n + 2] = #id, #envelope
  return true
end

-- So many messages are read at once.
local portion = READ_FIRST
local function pop(queue, priority, room)
  local key = ready_key(queue, priority)
  while room > 0 and not full and looked < LOOK_AT_MOST do
    local ids = redis.call('RPOP', key, math.min(room, CHUNK))
    if not ids then return end
    local envelopes, first, last = nil, 1, 0
    for i, id in ipairs(ids) do
      if i > last then
        first, last = i, math.min(last + portion, #ids)
        envelopes = redis.call('HMGET', MSG, unpack(ids, first, last))
      end
      local before = #held
      if not take(id, envelopes[i - first + 1], queue) then
        -- Back in order, the oldest last pushed: it is the next one popped.
        for j = #ids, i, -1 do redis.call('RPUSH', key, ids[j]) end
        full = true
        break
      end
      if #held > before then room = room - 1 end
      -- Where those were small, as a rule the next ones are. (Not always: what is read in vain is bounded, too.)
      if i == last and bytes * 4 <= most then portion = READ_MOST end
    end
  end
end

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

-- A message was claimed: it holds a permit of each of its keys.
local function start_all(id, first, second)
  if first then keyed.start(keyed.known(first), id, now) end
  if second then keyed.start(keyed.known(second), id, now) end
end

-- From the lines of keys, one of each in turn, as long as there is room.
local function pop_in_turn(queue, priority, room)
  local turn, place = turn_key(queue, priority), priority .. ':' .. queue
  local others = redis.call('LLEN', turn)
  local passed  -- how many pairs went over to their other key

  -- The next of a line: true when it was claimed, false when it has ended, nil when there is none or it has no room.
  local function pop_next(list, first, second)
    local id = redis.pcall('RPOP', list)
    if type(id) ~= 'string' then return nil end
    local before = #held
    if not take(id) then
      redis.call('RPUSH', list, id)
      full = true
      return nil
    end
    count_line(queue, -1)
    if #held == before then return false end
    start_all(id, first, second)
    return true
  end

  -- Likewise of the next pair that waits at a key. Where its other key refuses, there it waits from now on: false. (If it
  -- cannot, that costs the limit.)
  local function pop_next_pair(list, key)
    local pair = redis.pcall('RPOP', list)
    if type(pair) ~= 'string' then return nil end
    looked = looked + 1
    local first, second = string.match(pair, '^([^,]+),([^,]+)$')
    if not first then return false end
    local is_second = key == second
    local other, noted = is_second and first or second, place .. ' ' .. pair
    if keyed.refusal(keyed.known(other), now) and keyed.wait_at(other, pair, queue, priority, now) then
      passed = passed + 1
      redis.pcall('HSET', PAIRS, noted, is_second and '1' or '2')
      return false
    end
    local ids = line_key(queue, priority, pair)
    local claimed = pop_next(ids, first, second)
    local left = redis.pcall('LLEN', ids)
    if type(left) == 'number' and left > 0 then
      -- Behind the others, once it has had its turn.
      redis.call(claimed and 'LPUSH' or 'RPUSH', list, pair)
    elseif left == 0 then
      redis.pcall('HDEL', PAIRS, noted)
    end
    if claimed == nil and not full then return false end  -- its line had been emptied
    return claimed
  end

  while room > 0 and not full and looked < LOOK_AT_MOST do
    local name = redis.call('RPOP', turn)
    if not name then return end
    others = others - 1
    local key, comma = string.match(name, '^([^,]*)(,?)')
    local at, are_pairs = place .. comma, comma == ','
    local one = keyed.known(key)
    local list, claimed = (are_pairs and pairs_key or line_key)(queue, priority, key), false
    if one.lines[at] ~= 't' then one.lines[at], one.changed = 't', true end  -- whatever was known of it
    looked, passed = looked + 1, 0
    local when = keyed.refusal(one, now)
    -- Who is alone takes as much as it may: there is nobody to take turns with.
    while not when and room > 0 and looked < LOOK_AT_MOST do
      if are_pairs then claimed = pop_next_pair(list, key) else claimed = pop_next(list, key) end
      if claimed then room = room - 1 end
      if claimed == nil then
        if not full then one.lines[at], one.changed = nil, true end
        break
      end
      when = keyed.refusal(one, now)
      if claimed and others > 0 then break end
      -- Two keys that refuse by turns would have their pairs go to and fro, as fast as anybody claims.
      if not when and passed >= PASS_MOST then when = now + PASS_PAUSE end
    end
    if one.lines[at] and not full and redis.pcall('LLEN', list) == 0 then
      one.lines[at], one.changed = nil, true
    elseif one.lines[at] and when then
      keyed.park(one, at, when)
    elseif one.lines[at] then
      -- Whom the bytes of this claim were not enough for is the next one.
      redis.call(full and 'RPUSH' or 'LPUSH', turn, name)
      others = others + 1
    end
  end
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

local function claim_from(queue, line)
  if line.suspects > 0 then pop_suspects(suspects_key(queue), n - #held / 2, beside[queue]) end
  local waiting = line.waiting
  if waiting + line.keyed == 0 then return end
  local room = math.min(n - #held / 2, line.share)
  local taken, plain_room = 0, line.plain_share
  local function from(takes, ...)
    local before = #held
    takes(...)
    local more = (#held - before) / 2
    taken = taken + more
    if takes == pop then plain_room = plain_room - more end
  end
  for priority = 9, 0, -1 do
    local plain, with_keys = line[priority] > 0, line.keyed > 0 and redis.call('LLEN', turn_key(queue, priority)) > 0
    if plain and with_keys then
      -- Half of the room for each, and what one of them leaves is the other's. Of a room for one, by turns.
      local left = room - taken
      local half = seq % 2 == 0 and math.ceil(left / 2) or math.floor(left / 2)
      from(pop, queue, priority, math.min(half, plain_room))
      from(pop_in_turn, queue, priority, room - taken)
      from(pop, queue, priority, math.min(room - taken, plain_room))
    elseif with_keys then
      from(pop_in_turn, queue, priority, room - taken)
    elseif plain then
      from(pop, queue, priority, math.min(room - taken, plain_room))
    end
    if plain then waiting = waiting - line[priority] + redis.call('LLEN', ready_key(queue, priority)) end
    if line.keyed > 0 then waiting = waiting + redis.call('LLEN', turn_key(queue, priority)) end
  end
  if waiting > 0 then
    reply[3] = 1
    to_wake[queue] = true
  end
end

-- Where there are suspects, or keys.
local function claim_with_care()  -- seldom
  if are_keyed then
    need_keys()
    keyed.look_at_due(now, CHUNK)
  end
  if solitary or (are_suspects and makes_room_for_one()) then
    reply[3] = 2
    -- It may have taken tokens that are for others.
    for i = 5, #ARGV do
      if lines[i].waiting + lines[i].keyed > 0 then to_wake[ARGV[i]] = true end
    end
  else
    for i = 5, #ARGV do claim_from(ARGV[i], lines[i]) end
  end
end

-- Where there are none, as a rule.
local function claim_plain(queue, line)
  local room, waiting = math.min(n - #held / 2, line.share or 0), line.waiting
  for priority = 9, 0, -1 do
    if line[priority] > 0 then
      local before = #held
      pop(queue, priority, room)
      room = room - (#held - before) / 2
      waiting = waiting - line[priority] + redis.call('LLEN', ready_key(queue, priority))
    end
  end
  if waiting > 0 then
    reply[3] = 1
    to_wake[queue] = true
  end
end

if solitary or are_suspects or are_keyed then
  claim_with_care()
else
  for i = 5, #ARGV do
    if lines[i].waiting > 0 then claim_plain(ARGV[i], lines[i]) end
  end
end
if #held > 0 then redis.call('HSET', PROCESSING, unpack(held)) end
if are_keyed then
  -- As fast as keys come that are new.
  keyed.forget_idle(now, #held + 2)
  due = keyed.next_of_both()
end
if due then reply[2] = tonumber(due) end
reply[4], reply[5] = table.concat(lengths, ' '), table.concat(texts)
if keyed.known or next(line_counts) then close_lines(now) end
wake_all()
if next(counted) then close() end
return reply
