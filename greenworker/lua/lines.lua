-- Stands before every script that moves messages, behind limits.lua: where a message waits, and how keys take turns.
--
-- A message without a key waits in ready:<queue>:<priority>. One with a key waits in its key's own line there, and the key
-- itself in turn:<queue>:<priority> while it may start one. When it may not, its lines are parked: until `later` says so,
-- or a permit comes back. keys[key] notes where it has lines, and which of them are parked.

local function line_key(queue, priority, key) return ROOT .. 'line:' .. priority .. ':' .. queue .. ' ' .. key end
local function turn_key(queue, priority) return ROOT .. 'turn:' .. queue .. ':' .. priority end

-- Queues where a worker is to be woken, in the end.
local to_wake = {}
local function wake_all()
  for queue in pairs(to_wake) do wake(queue) end
end

-- How many more or less wait in lines of a queue.
local line_counts = {}
local function count_line(queue, by) line_counts[queue] = (line_counts[queue] or 0) + by end

-- Last call of the script but for `close`.
local function close_lines(now)
  for queue, by in pairs(line_counts) do
    local left = by ~= 0 and redis.pcall('HINCRBY', KEYED, queue, by)
    if type(left) == 'number' and left <= 0 then redis.call('HDEL', KEYED, queue) end
  end
  close_keys(now)
end

local function park(one, at, when)
  one.lines[at], one.changed = 'p', true
  if when ~= NEVER then redis.pcall('ZADD', LATER, string.format('%.0f', when), one.key) end
end

local WRONG_FOR = 5000  -- ms: where its turn cannot be taken down
local function take_turns(one, at, now)
  local priority, queue = string.match(at, '^(%d):(.*)$')
  local turn = turn_key(queue, priority)
  -- pcall: too late to refuse a key of a wrong type.
  if one.is_damaged then redis.pcall('LREM', turn, 0, one.key) end
  if type(redis.pcall('LPUSH', turn, one.key)) ~= 'number' then return park(one, at, now + WRONG_FOR) end
  one.lines[at], one.changed = 't', true
  to_wake[queue] = true
end

-- A line of this key is no longer empty.
local function enter(key, queue, priority, now)
  local one, at = known(key), priority .. ':' .. queue
  -- It takes turns, or is parked, though it was empty meanwhile.
  if one.lines[at] and not one.is_damaged then
    if one.lines[at] == 't' then to_wake[queue] = true end
    return
  end
  local when = refusal(one, now)
  if when then park(one, at, when) else take_turns(one, at, now) end
end

-- What may run of a key has changed: its parked lines take turns again, or wait until they may.
local function look_again(one, now)
  local parked = {}
  for at, how in pairs(one.lines) do
    if how == 'p' then parked[#parked + 1] = at end
  end
  if #parked == 0 then return end
  table.sort(parked)
  local when = refusal(one, now)
  for _, at in ipairs(parked) do
    local priority, queue = string.match(at, '^(%d):(.*)$')
    if redis.pcall('LLEN', line_key(queue, priority, one.key)) == 0 then
      one.lines[at], one.changed = nil, true
    elseif not when then
      take_turns(one, at, now)
    elseif when ~= NEVER then
      park(one, at, when)
    end
  end
end

-- All its lines, wherever it has any, if what was known of it is gone, or somebody asks for it: parked, for all we know.
local function find_all(one)
  one.is_damaged, one.changed = true, true
  for at in pairs(one.lines) do one.lines[at] = 'p' end
  for at in pairs(find_lines(one.key)) do one.lines[at] = 'p' end
end

-- Keys whose time has come: their lines take turns again. At 0 an audit's mend has put what nobody would come to.
local function look_at_due(now, most)
  local due = redis.pcall('ZRANGEBYSCORE', LATER, '-inf', string.format('%.0f', now), 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, due.err and 0 or #due, 2 do
    local one = known(due[i])
    redis.call('ZREM', LATER, due[i])
    if one.is_new or tonumber(due[i + 1]) == 0 then find_all(one) end
    look_again(one, now)
  end
  return #due / 2
end

-- After limits have changed, a pass looks at all keys, a chunk at a time: limits['?'] is where it goes on. True if there
-- is more to do.
local function look_on(now, count)
  local cursor = redis.pcall('HGET', LIMITS, '?')
  if type(cursor) ~= 'string' then return false end
  local scan = redis.pcall('HSCAN', KNOWN, cursor, 'COUNT', count)
  local found = scan.err and {} or scan[2]
  for i = 1, #found, 2 do
    -- Parked somewhere: a look at the text is enough.
    local lines = select(12, string.match(found[i + 1], STATE)) or ''
    if string.find(lines, 'p%d:') then look_again(known(found[i]), now) end
  end
  local more = not scan.err and scan[1] ~= '0'
  if more then redis.call('HSET', LIMITS, '?', scan[1]) else redis.call('HDEL', LIMITS, '?') end
  return more
end

-- Of what is scheduled and of keys that wait for a time: when the next one is due, in ms, or nil.
local function next_of_both()
  local due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]
  local key = redis.pcall('ZRANGE', LATER, 0, 0, 'WITHSCORES')[2]
  return due and key and tostring(math.min(tonumber(due), tonumber(key))) or due or key
end

-- Keys that nothing waits for or runs, and that there is no more reason to remember.
local function forget_idle(now, most)
  local idle = redis.pcall('ZRANGEBYSCORE', IDLE, '-inf', string.format('%.0f', now), 'LIMIT', 0, most)
  for _, key in ipairs(idle.err and {} or idle) do
    redis.call('ZREM', IDLE, key)
    local one = known(key)
    if not next(one.lines) and out(one) == 0 then
      local at = memorable_until(one)
      if at > now then
        if at ~= NEVER then redis.call('ZADD', IDLE, string.format('%.0f', at), key) end
      else
        redis.pcall('HDEL', KNOWN, key)
        known_here[key] = nil
      end
    end
  end
end

-- Keys in turn whose lines there were emptied by others than claims, where nothing waits that would have claims come past.
-- Returns true if there may be more.
local function clear_turns(queue, most)
  local left = redis.pcall('HGET', KEYED, queue)
  if type(left) == 'string' and (tonumber(left) or 1) + (line_counts[queue] or 0) > 0 then return false end
  local turns = {}
  for priority = 0, 9 do turns[priority + 1] = turn_key(queue, priority) end
  if redis.call('EXISTS', unpack(turns)) == 0 then return false end
  for priority = 0, 9 do
    local turn, at = turn_key(queue, priority), priority .. ':' .. queue
    while most > 0 do
      local key = redis.pcall('RPOP', turn)
      if type(key) ~= 'string' then break end
      most = most - 1
      if redis.pcall('LLEN', line_key(queue, priority, key)) ~= 0 then
        redis.call('RPUSH', turn, key)
        break
      end
      local one = known(key)
      one.lines[at], one.changed = nil, true
    end
  end
  return most == 0
end

-- A message's permits come back.
local function give_back(id, now, first, second)
  for _, key in ipairs({first, second}) do
    local one = known(key)
    if redis.pcall('SREM', held_key(key), id) == 1 then
      one.out = one.out and one.out - 1
      if one.is_new then find_all(one) end
    end
    one.changed = true
    look_again(one, now)
  end
end

-- The list of a message of that queue and priority, whose options are in the first line of `text`; and its keys.
local function list_of(queue, priority, text)
  local first, second = keys_in(text)
  return first and line_key(queue, priority, first) or ready_key(queue, priority), first, second
end

-- Where a message waits: the list and its queue; nil when the envelope does not tell it. And of a key's line: its priority,
-- key, and second key, in whose line it may be instead.
local function home(envelope)
  local _, _, priority, _, _, _, queue = head(envelope)
  if not queue then return nil end
  if is_suspect(envelope) then return suspects_key(queue), queue end
  local list, first, second = list_of(queue, priority, envelope)
  return list, queue, priority, first, second
end

-- To its queue, or to the suspects: at the back, or in front of all others. Nobody can tell where
-- what cannot be read belongs: the next claim of `default` buries it.
local function make_ready(id, envelope, in_front, now)
  local key, queue, priority, first = home(envelope or '')
  if not key then key, queue, in_front = ready_key('default', 5), 'default', false end
  -- First: where this key is of a wrong type, the message has not moved yet.
  redis.call('SADD', QUEUES, queue)
  local length = redis.call(in_front and 'RPUSH' or 'LPUSH', key, id)
  if not first then
    to_wake[queue] = true
    return
  end
  count_line(queue, 1)
  if length == 1 then enter(first, queue, priority, now) end
end

-- Why a message cannot move to where it waits: no list is there; or nil.
local function wrong_home(envelope)
  local key, queue, priority, first = home(envelope or '')
  return mistyped(key or ready_key('default', 5), 'list') or mistyped(wake_key(queue or 'default'), 'list')
    or (first and mistyped(turn_key(queue, priority), 'list')) or nil
end

local function require_home(envelope)
  local wrong = wrong_home(envelope)
  if wrong then refuse(wrong) end
end
