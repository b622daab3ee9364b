-- Stands before reap: what would wait for ever, or hold a permit for ever, since something of a key was damaged or a worker of
-- an older version passed. Some keys a sweep, whichever chance brings.

local heal
do  -- Lua has room for 200 locals: what nobody else needs stays in here
local HEAL_KEYS, HEAL_PERMITS, HEAL_COUNT, HEAL_DECLARED = 100, 100, 500, 20

local function count_if_none(queue, line)
  if redis.pcall('HEXISTS', KEYED, queue) ~= 0 then return end
  local waiting = redis.pcall('LLEN', line)
  if type(waiting) == 'number' and waiting > 0 then count_line(queue, waiting) end
end

-- The first pairs that wait at a key. They are noted from now on, if what was noted is gone.
local function some_pairs(queue, priority, key)
  local found = redis.pcall('LRANGE', pairs_key(queue, priority, key), -HEAL_KEYS, -1)
  if found.err then return {} end
  for _, pair in ipairs(found) do
    local first, second = string.match(pair, '^([^,]+),([^,]+)$')
    if first then redis.pcall('HSETNX', PAIRS, priority .. ':' .. queue .. ' ' .. pair, key == second and '2' or '1') end
  end
  return found
end

-- Its lines are in `turn`, or parked where something fetches them. `counts`: and claims know that something waits there.
local function heal_lines(one, now, counts)
  for at, how in pairs(one.lines) do
    local queue, priority, comma = placed(at)
    if comma == ',' then
      drop_empty(pairs_key(queue, priority, one.key), queue, priority, HEAL_KEYS)
      some_pairs(queue, priority, one.key)
    elseif counts then
      count_if_none(queue, line_key(queue, priority, one.key))
    end
    local turn = turn_key(queue, priority)
    local length = how == 't' and redis.pcall('LLEN', turn)
    -- (A long list is not walked through for it.)
    if length == 0 or (type(length) == 'number' and length <= HEAL_COUNT and not redis.call('LPOS', turn, one.key .. comma)) then
      one.lines[at], one.changed = 'p', true
    end
  end
  look_again(one, now)
  -- Is it to be forgotten?
  if not next(one.lines) then one.changed = true end
end

-- Who of `ids` is held by nobody.
local function held_by_nobody(ids)
  local lone = {}
  for _, id in ipairs(ids) do lone[id] = true end
  for _, wids in ipairs({redis.call('ZRANGE', WORKERS, 0, -1), redis.call('SMEMBERS', CORPSES)}) do
    for _, wid in ipairs(wids) do
      local seqs = redis.pcall('HMGET', processing_key(wid), unpack(ids))
      -- Of a wrong type: who knows.
      if seqs.err then return {} end
      for k, seq in ipairs(seqs) do
        if seq then lone[ids[k]] = nil end
      end
    end
  end
  return lone
end

-- How many wait in lines of each queue, where it is little work to count them.
local function recount()
  local queues, counts = {}, {}
  for _, key in ipairs(redis.call('HKEYS', KNOWN)) do
    for at in pairs(known(key).lines) do
      local queue, priority, comma = placed(at)
      if comma == '' then
        queues[line_key(queue, priority, key)] = queue
      else
        for _, pair in ipairs(some_pairs(queue, priority, key)) do queues[line_key(queue, priority, pair)] = queue end
      end
    end
  end
  local noted_pairs = redis.pcall('HKEYS', PAIRS)
  for _, place in ipairs(noted_pairs.err and {} or noted_pairs) do
    queues[ROOT .. 'line:' .. place] = string.match(place, '^%d:([^ ]+) ')
  end
  for line, queue in pairs(queues) do
    local length = redis.pcall('LLEN', line)
    counts[queue] = (counts[queue] or 0) + (type(length) == 'number' and length or 0)
  end
  local noted = redis.pcall('HGETALL', KEYED)
  for i = 1, noted.err and 0 or #noted, 2 do
    if not counts[noted[i]] or counts[noted[i]] == 0 then
      redis.call('HDEL', KEYED, noted[i])
    elseif tostring(counts[noted[i]]) ~= noted[i + 1] then
      redis.call('HSET', KEYED, noted[i], counts[noted[i]])
    end
    counts[noted[i]] = nil
  end
  for queue, n in pairs(counts) do
    if n > 0 then redis.pcall('HSET', KEYED, queue, n) end
  end
end

-- Where nothing is known of any key, and none is in turn, nothing waits in lines.
local function count_none()
  local noted = redis.pcall('HKEYS', KEYED)
  for _, queue in ipairs(noted.err and {} or noted) do
    local turns = {}
    for priority = 0, 9 do turns[priority + 1] = turn_key(queue, priority) end
    if redis.call('EXISTS', unpack(turns)) == 0 then redis.call('HDEL', KEYED, queue) end
  end
end

-- Pairs wait where they are noted.
local function heal_pairs(now, counts)
  local some = redis.pcall('HRANDFIELD', PAIRS, HEAL_KEYS)
  for _, place in ipairs(some.err and {} or some) do
    local priority, queue, pair = string.match(place, '^(%d):([^ ]+) (.*)$')
    if pair then
      if counts then count_if_none(queue, ROOT .. 'line:' .. place) end
      find_pair(queue, priority, pair, now)
    else
      redis.call('HDEL', PAIRS, place)
    end
  end
end

-- Limits go that nobody declares any more: a worker of an older version has drained who did.
local function heal_declared()
  local some = redis.pcall('HRANDFIELD', LIMITS_BY, HEAL_DECLARED)
  for _, wid in ipairs(some.err and {} or some) do
    if not redis.call('ZSCORE', WORKERS, wid) and redis.call('SISMEMBER', CORPSES, wid) == 0 then forget_declared(wid) end
  end
end

-- Nothing that code declares lies under what people have dropped: a worker of an older version may have carried that out.
local function heal_under(now)
  local some, back = redis.pcall('HRANDFIELD', LIMITS_UNDER, HEAL_DECLARED), {}
  if some.err or mistyped(LIMITS, 'hash') then return end
  for _, pattern in ipairs(some) do
    local line = redis.call('HGET', LIMITS, pattern)
    if not line then
      if uncover(pattern, now) then back[#back + 1] = pattern end
    elseif string.find(line, '^d ') then
      redis.call('HDEL', LIMITS_UNDER, pattern)
    end
  end
  if #back == 0 then return end
  note_patterns(back)
  redis.call('HSET', LIMITS, '?', '0')
end

-- What is parked waits for a time by another clock, if it was set back since the last sweep: a pass looks at all of it.
local function heal_clock(now, last_sweep)
  if last_sweep > now and not mistyped(LIMITS, 'hash') then redis.call('HSET', LIMITS, '?', '0') end
end

local function heal_keys(now)
  local some = redis.pcall('HRANDFIELD', KNOWN, HEAL_KEYS)
  local of_pairs = redis.pcall('HLEN', PAIRS)
  if type(of_pairs) ~= 'number' then of_pairs = 0 end
  if some.err then return end
  if #some + of_pairs == 0 then return count_none() end
  local permits, ids, are_many = {}, {}, redis.call('HLEN', KNOWN) + of_pairs > HEAL_COUNT
  heal_pairs(now, are_many)
  for _, key in ipairs(some) do
    heal_lines(known(key), now, are_many)
    local held = #ids < HEAL_PERMITS and redis.pcall('SRANDMEMBER', held_key(key), HEAL_PERMITS - #ids) or {}
    for _, id in ipairs(held.err and {} or held) do
      ids[#ids + 1] = id
      permits[#permits + 1] = key
    end
  end
  local lone = #ids > 0 and held_by_nobody(ids) or {}
  for k, id in ipairs(ids) do
    if lone[id] then give_back(id, now, permits[k]) end
  end
  if not are_many then recount() end
end

function heal(now, last_sweep)
  heal_keys(now)
  heal_declared()
  heal_under(now)
  heal_clock(now, last_sweep)
end
end
