-- Stands before every script that moves messages, behind limits.lua: where a message waits, and how keys take turns.
--
-- A message without a key waits in ready:<queue>:<priority>. One with a key waits in its key's own line there, and the key
-- itself in turn:<queue>:<priority> while it may start one. When it may not, its lines are parked: until `later` says so,
-- or a permit comes back. keys[key] notes where it has lines, and which of them are parked.
--
-- One with two keys waits in the line of both, <key>,<key>, with others of the same two. This pair waits, once, at the key
-- that is in its way: in pairs:<priority>:<queue> <key>, another line of that key, which parks and takes turns (as <key>,)
-- like that of its own messages. `pairs` notes at which of the two it is. So pairs take turns at a key, and messages stay
-- where they are.

local PAIRS = ROOT .. 'pairs'
local function line_key(queue, priority, key) return ROOT .. 'line:' .. priority .. ':' .. queue .. ' ' .. key end
local function pairs_key(queue, priority, key) return ROOT .. 'pairs:' .. priority .. ':' .. queue .. ' ' .. key end
local function turn_key(queue, priority) return ROOT .. 'turn:' .. queue .. ':' .. priority end

-- Queues where a worker is to be woken, in the end.
local to_wake = {}
local function wake_all()
  for queue in pairs(to_wake) do wake(queue) end
end

-- What <priority>:<queue> says, and <priority>:<queue>, of pairs: queue, priority, and '' or ','.
local function placed(at)
  local priority, queue, comma = string.match(at, '^(%d):([^,]*)(,?)$')
  return queue, priority, comma
end

-- The list that a key has there.
local function list_at(key, at)
  local queue, priority, comma = placed(at)
  return (comma == ',' and pairs_key or line_key)(queue, priority, key)
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
  if keyed.known then keyed.close_keys(now) end
end

local function line_of(queue, priority, text)  -- seldom
  local first, second = find_keys(text)
  if not first then return ready_key(queue, priority) end
  return line_key(queue, priority, second and first .. ',' .. second or first), first, second
end

-- The list of a message of that queue and priority, whose options are in the first line of `text`; and its keys.
local function list_of(queue, priority, text)
  if may_have_keys(text) then return line_of(queue, priority, text) end
  return ready_key(queue, priority)
end

-- Where a message waits: the list and its queue; nil when the envelope does not tell it. And of a line: its priority and keys.
local function home(envelope)
  local _, _, priority, _, _, _, queue = head(envelope)
  if not queue then return nil end
  if is_suspect(envelope) then return suspects_key(queue), queue end
  local list, first, second = list_of(queue, priority, envelope)
  return list, queue, priority, first, second
end

-- A message has come to the line of its keys, which has so many now.
local function has_come(length, first, second, queue, priority, now)
  count_line(queue, 1)
  if second then
    keyed.enter_pair(length, first, second, queue, priority, now)
  elseif length == 1 then
    keyed.enter(first, priority .. ':' .. queue, now)
  end
end

-- To its queue, or to the suspects: at the back, or in front of all others. Nobody can tell where
-- what cannot be read belongs: the next claim of `default` buries it.
local function make_ready(id, envelope, in_front, now)
  local key, queue, priority, first, second = home(envelope or '')
  if not key then key, queue, in_front = ready_key('default', 5), 'default', false end
  -- First: where this key is of a wrong type, the message has not moved yet.
  redis.call('SADD', QUEUES, queue)
  local length = redis.call(in_front and 'RPUSH' or 'LPUSH', key, id)
  if first then
    has_come(length, first, second, queue, priority, now)
  else
    to_wake[queue] = true
  end
end

-- Why a message cannot move to where it waits: no list is there; or nil.
local function wrong_home(envelope)
  local key, queue, priority, first = home(envelope or '')
  return mistyped(key or ready_key('default', 5), 'list') or mistyped(wake_key(queue or 'default'), 'list')
    or (first and mistyped(turn_key(queue, priority), 'list')) or nil
end

local function require_home(envelope)  -- seldom
  local wrong = wrong_home(envelope)
  if wrong then refuse(wrong) end
end

local function make_lines()
local KNOWN, LATER, IDLE, NEVER = keyed.KNOWN, keyed.LATER, keyed.IDLE, keyed.NEVER
local known_here, known, out, refusal = keyed.known_here, keyed.known, keyed.out, keyed.refusal
local memorable_until, find_lines, held_key = keyed.memorable_until, keyed.find_lines, keyed.held_key
local park, enter, look_again, find_all, look_at_due, next_of_both, forget_idle, clear_turns, give_back
local enter_pair, wait_at, to_front, find_pair, drop_empty

-- True if it waits for a time, and did not before.
function park(one, at, when)
  one.lines[at], one.changed = 'p', true
  return when ~= NEVER and redis.pcall('ZADD', LATER, string.format('%.0f', when), one.key) == 1
end

-- Not where a claim does it, which tells its worker when the next one is due.
local function park_and_tell(one, at, when)
  -- Sooner than all that workers expect: one is woken, to hear of it.
  if park(one, at, when) and redis.pcall('ZRANGE', LATER, 0, 0)[1] == one.key then
    to_wake[placed(at)] = true
  end
end

local WRONG_FOR = 5000  -- ms: where its turn cannot be taken down
local function take_turns(one, at, now)
  local queue, priority, comma = placed(at)
  local turn, name = turn_key(queue, priority), one.key .. comma
  -- pcall: too late to refuse a key of a wrong type.
  if one.is_damaged then redis.pcall('LREM', turn, 0, name) end
  if type(redis.pcall('LPUSH', turn, name)) ~= 'number' then return park(one, at, now + WRONG_FOR) end
  one.lines[at], one.changed = 't', true
  to_wake[queue] = true
end

-- A line of this key is no longer empty.
function enter(key, at, now)
  local one = known(key)
  -- It takes turns, or is parked, though it was empty meanwhile.
  if one.lines[at] and not one.is_damaged then
    if one.lines[at] == 't' then to_wake[placed(at)] = true end
    return
  end
  local when = refusal(one, now)
  if when then park_and_tell(one, at, when) else take_turns(one, at, now) end
end

-- One more pair waits at a key: so many do there now. False where it could not.
local function waits_at(key, length, queue, priority, now)
  if type(length) ~= 'number' then return false end
  local at = priority .. ':' .. queue .. ','
  if length == 1 or not known(key).lines[at] then enter(key, at, now) end
  return true
end

-- A pair waits at this key, which is in its way.
function wait_at(key, pair, queue, priority, now)
  -- (pcall: too late to refuse a key of a wrong type.)
  return waits_at(key, redis.pcall('LPUSH', pairs_key(queue, priority, key), pair), queue, priority, now)
end

-- A message has come to a pair's line: the pair waits, at its first key, unless it does already.
function enter_pair(length, first, second, queue, priority, now)
  local pair, place = first .. ',' .. second, priority .. ':' .. queue
  local is_new = redis.pcall('HSETNX', PAIRS, place .. ' ' .. pair, '1')
  if is_new == 1 or (is_new ~= 0 and length == 1) then
    wait_at(first, pair, queue, priority, now)
  elseif length == 1 then
    -- Its line had been emptied meanwhile.
    enter(redis.pcall('HGET', PAIRS, place .. ' ' .. pair) == '2' and second or first, place .. ',', now)
  end
end

-- One of its messages was refused by `key` where it ran, and is in front of its line: there the pair is the first. (Out of a
-- long list it is not looked for: then it comes when it comes.)
local LOOK_FOR_PAIR = 1000
function to_front(key, first, second, queue, priority, now)
  local pair = first .. ',' .. second
  local place = priority .. ':' .. queue .. ' ' .. pair
  local list = pairs_key(queue, priority, redis.pcall('HGET', PAIRS, place) == '2' and second or first)
  local length = redis.pcall('LLEN', list)
  if type(length) ~= 'number' or length > LOOK_FOR_PAIR or redis.call('LREM', list, 1, pair) == 0 then return end
  redis.pcall('HSET', PAIRS, place, key == second and '2' or '1')
  waits_at(key, redis.pcall('RPUSH', pairs_key(queue, priority, key), pair), queue, priority, now)
end

-- Sees to it that a pair which has messages waits where it is noted, at its first key if it waits nowhere; and that one
-- which has none is not noted.
function find_pair(queue, priority, pair, now)
  local place, at = priority .. ':' .. queue .. ' ' .. pair, priority .. ':' .. queue .. ','
  local first, second = string.match(pair, '^([^,]+),([^,]+)$')
  if not first then return redis.pcall('HDEL', PAIRS, place) end
  local noted, is_empty = redis.pcall('HGET', PAIRS, place), redis.pcall('LLEN', line_key(queue, priority, pair)) == 0
  local waits
  for side, key in pairs({first, second}) do
    local list = pairs_key(queue, priority, key)
    local others = redis.pcall('LLEN', list)
    if type(others) ~= 'number' then
      -- Of a wrong type: there it waits no more.
    elseif others > LOOK_FOR_PAIR then
      -- (Then whoever comes past it finds it.)
      if noted == tostring(side) then waits = waits or side end
    elseif waits or is_empty then
      redis.call('LREM', list, 0, pair)
    else
      local found = redis.call('LPOS', list, pair, 'COUNT', 2)
      -- Once: else it would have more turns than others.
      if #found > 1 then redis.call('LREM', list, #found - 1, pair) end
      if #found > 0 then waits = side end
    end
  end
  if is_empty then return waits or redis.pcall('HDEL', PAIRS, place) end
  if noted ~= tostring(waits or 1) then redis.pcall('HSET', PAIRS, place, waits or 1) end
  if waits then return enter(waits == 1 and first or second, at, now) end
  wait_at(first, pair, queue, priority, now)
end

-- Of pairs that wait at a key: those in front whose lines were emptied leave. Returns how many more may.
function drop_empty(list, queue, priority, most)
  while most > 0 do
    local pair = redis.pcall('LINDEX', list, -1)
    if type(pair) ~= 'string' or redis.pcall('LLEN', line_key(queue, priority, pair)) ~= 0 then break end
    redis.call('RPOP', list)
    redis.pcall('HDEL', PAIRS, priority .. ':' .. queue .. ' ' .. pair)
    most = most - 1
  end
  return most
end

-- What may run of a key has changed: its parked lines take turns again, or wait until they may.
function look_again(one, now)
  local parked
  for at, how in pairs(one.lines) do
    if how == 'p' then
      parked = parked or {}
      parked[#parked + 1] = at
    end
  end
  if not parked then return end
  table.sort(parked)
  local when, many = refusal(one, now), #parked
  -- Each of them is the first once: where a key may start one at a time, it is the first one's.
  local shift = many > 1 and (one.started + string.match(one.window, ',(%d+),')) % many or 0
  for i = 1, many do
    local at = parked[(i + shift - 1) % many + 1]
    if redis.pcall('LLEN', list_at(one.key, at)) == 0 then
      one.lines[at], one.changed = nil, true
    elseif not when then
      take_turns(one, at, now)
    elseif when ~= NEVER then
      park_and_tell(one, at, when)
    end
  end
end

-- A message's permits come back.
function give_back(id, now, key, second)
  if not key then return end
  local one = known(key)
  if redis.pcall('SREM', held_key(key), id) == 1 then
    one.out = one.out and one.out - 1
    if one.is_new then find_all(one) end
  end
  one.changed = true
  look_again(one, now)
  give_back(id, now, second)
end

-- All its lines, wherever it has any, if what was known of it is gone, or somebody asks for it: parked, for all we know.
function find_all(one)
  one.is_damaged, one.changed = true, true
  for at in pairs(one.lines) do one.lines[at] = 'p' end
  for at in pairs(find_lines(one.key)) do one.lines[at] = 'p' end
end

-- Keys whose time has come: their lines take turns again. At 0 an audit's mend has put what nobody would come to.
function look_at_due(now, most)
  local due = redis.pcall('ZRANGEBYSCORE', LATER, '-inf', string.format('%.0f', now), 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, due.err and 0 or #due, 2 do
    redis.call('ZREM', LATER, due[i])
    if string.find(due[i], ',', 1, true) then
      for at in pairs(find_lines(due[i])) do
        local queue, priority = placed(at)
        find_pair(queue, priority, due[i], now)
      end
    else
      local one = known(due[i])
      if one.is_new or tonumber(due[i + 1]) == 0 then find_all(one) end
      look_again(one, now)
    end
  end
  return #due / 2
end

-- Of what is scheduled and of keys that wait for a time: when the next one is due, in ms, or nil.
function next_of_both()
  local due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]
  local key = redis.pcall('ZRANGE', LATER, 0, 0, 'WITHSCORES')[2]
  return due and key and tostring(math.min(tonumber(due), tonumber(key))) or due or key
end

-- Keys that nothing waits for or runs, and that there is no more reason to remember.
function forget_idle(now, most)
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
function clear_turns(queue, most)
  local left = redis.pcall('HGET', KEYED, queue)
  if type(left) == 'string' and (tonumber(left) or 1) + (line_counts[queue] or 0) > 0 then return false end
  local turns = {}
  for priority = 0, 9 do turns[priority + 1] = turn_key(queue, priority) end
  if redis.call('EXISTS', unpack(turns)) == 0 then return false end
  for priority = 0, 9 do
    local turn = turn_key(queue, priority)
    while most > 0 do
      local name = redis.pcall('RPOP', turn)
      if type(name) ~= 'string' then break end
      most = most - 1
      local key, comma = string.match(name, '^([^,]*)(,?)')
      local at = priority .. ':' .. queue .. comma
      local list = list_at(key, at)
      if comma == ',' then most = drop_empty(list, queue, priority, most) end
      local length = redis.pcall('LLEN', list)
      if length ~= 0 then
        redis.call('RPUSH', turn, name)
        -- What nobody has counted: claims are to come past.
        if type(length) == 'number' then
          count_line(queue, length)
          to_wake[queue] = true
        end
        break
      end
      local one = known(key)
      one.lines[at], one.changed = nil, true
    end
  end
  return most == 0
end

keyed.park, keyed.enter, keyed.look_again, keyed.find_all = park, enter, look_again, find_all
keyed.look_at_due, keyed.next_of_both = look_at_due, next_of_both
keyed.forget_idle, keyed.clear_turns, keyed.give_back = forget_idle, clear_turns, give_back
keyed.enter_pair, keyed.wait_at, keyed.to_front = enter_pair, wait_at, to_front
keyed.find_pair, keyed.drop_empty = find_pair, drop_empty
end

function need_keys()  -- seldom
  if keyed.known then return end
  make_adapt()
  make_limits()
  make_lines()
end
