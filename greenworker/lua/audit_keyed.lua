-- audit_keyed: a chunk of what is kept of keys, and what is wrong with it at this very moment. Reads only.
--
-- ARGV  what, key without the root, cursor, count
--       what   known    keys: each can be read; what takes turns is in `turn`, once; something fetches what is parked;
--                       something forgets the others
--              lines    keys, pairs: nothing is judged
--              pairs    pairs: each waits at the key that is noted
--              turns    turn: each is noted there
--              permits  held: each of a message that a worker holds
--              counts   keyed: each is a positive number; where it is little work, the right one
--              limits   limits: each can be read, and those with a * are in order
--              under    limits:under: each lies under what people have set
-- Returns {next cursor, entries read, {line without the root, ...}, {what is wrong, key or id, detail, ...}}.
--         The lines are those that are noted, told by `lines`. next cursor as of audit_scan.

local what, name, cursor, count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local KEY = ROOT .. name
-- Of turns so many are read to see who is there; beyond, so many keys a call are looked for.
local TURNS_MOST, LOOK_FOR, RECOUNT_MOST = 2000, 1, 5000
local SCANS = {hash = 'HSCAN', set = 'SSCAN'}

local lines, wrong, now = {}, {}, now_ms()
local function is_wrong(how, of, detail)
  wrong[#wrong + 1] = how
  wrong[#wrong + 1] = of
  wrong[#wrong + 1] = detail or ''
end

local function short(key) return string.sub(key, #ROOT + 1) end

-- How often a key is in a list of turns, up to twice; nil where that is too much work.
local turns, looked_for = {}, 0
local function times_in(turn, key)
  if not turns[turn] then
    local seen, length = {}, redis.pcall('LLEN', turn)
    if type(length) ~= 'number' then length = 0 end
    for _, one in ipairs(length > 0 and length <= TURNS_MOST and redis.call('LRANGE', turn, 0, -1) or {}) do
      seen[one] = (seen[one] or 0) + 1
    end
    turns[turn] = {seen = seen, length = length}
  end
  if turns[turn].length <= TURNS_MOST then return turns[turn].seen[key] or 0 end
  looked_for = looked_for + 1
  return looked_for <= LOOK_FOR and #redis.call('LPOS', turn, key, 'COUNT', 2) or nil
end

local function tell_lines(key, text)
  for at in string.gmatch(select(12, string.match(text, STATE)) or '', '[tp]([^;]+)') do
    local queue, priority, comma = placed(at)
    if queue and comma == '' then lines[#lines + 1] = short(line_key(queue, priority, key)) end
  end
end

local passing = redis.pcall('HEXISTS', LIMITS, '?') == 1
local function look_at(key)
  local one = known(key)
  if one.is_damaged then return is_wrong('garbled', key) end
  for at, how in pairs(one.lines) do
    local queue, priority, comma = placed(at)
    local turn = turn_key(queue, priority)
    local times = how == 't' and times_in(turn, key .. comma)
    if times == 0 then is_wrong('unturned', key, short(turn)) end
    if times and times > 1 then is_wrong('overturned', key, short(turn)) end
    -- (While limits change, a pass looks at all that is parked.)
    if how == 'p' and not passing and not redis.pcall('ZSCORE', LATER, key) and refusal(one, now) ~= NEVER then
      is_wrong('stuck', key, at)
    end
  end
  if not next(one.lines) and out(one) == 0 and one.hold < FOR_EVER and not redis.pcall('ZSCORE', IDLE, key) then
    is_wrong('kept', key)
  end
end

-- A pair, as it is noted, and at which of its keys it waits.
local function look_at_pair(place, side)
  local priority, queue, pair, first, second = string.match(place, '^(%d):([^ ]+) (([^,]+),([^,]+))$')
  if not first or (side ~= '1' and side ~= '2') then return is_wrong('unpaired', pair or place) end
  local key = side == '1' and first or second
  local list = pairs_key(queue, priority, key)
  local times = times_in(list, pair)
  if times == 0 then return is_wrong('unturned', pair, short(list)) end
  if times and times > 1 then is_wrong('overturned', pair, short(list)) end
  if not known(key).lines[priority .. ':' .. queue .. ','] then is_wrong('stuck', key, priority .. ':' .. queue) end
end

local function holders_of(ids)
  local held = {}
  for _, wids in ipairs({redis.call('ZRANGE', WORKERS, 0, -1), redis.call('SMEMBERS', CORPSES)}) do
    for _, wid in ipairs(wids) do
      local seqs = redis.pcall('HMGET', processing_key(wid), unpack(ids))
      for k, id in ipairs(ids) do held[id] = held[id] or seqs.err or seqs[k] end
    end
  end
  return held
end

local function recount()
  if redis.call('HLEN', KNOWN) + redis.call('HLEN', PAIRS) > RECOUNT_MOST then return end
  local counts, known_ones = {}, redis.call('HGETALL', KNOWN)
  local function count(queue, line)
    local length = redis.pcall('LLEN', line)
    counts[queue] = (counts[queue] or 0) + (type(length) == 'number' and length or 0)
  end
  for i = 1, #known_ones, 2 do
    for at in string.gmatch(select(12, string.match(known_ones[i + 1], STATE)) or '', '[tp]([^;]+)') do
      local queue, priority, comma = placed(at)
      if comma == '' then count(queue, line_key(queue, priority, known_ones[i])) end
    end
  end
  local noted_pairs = redis.call('HGETALL', PAIRS)
  for i = 1, #noted_pairs, 2 do count(string.match(noted_pairs[i], '^%d:([^ ]+) ') or '', ROOT .. 'line:' .. noted_pairs[i]) end
  local all_noted = redis.call('HGETALL', KEYED)
  for i = 1, #all_noted, 2 do counts[all_noted[i]] = counts[all_noted[i]] or 0 end
  for queue, n in pairs(counts) do
    local noted = redis.call('HGET', KEYED, queue) or '0'
    if noted ~= tostring(n) and string.find(noted, '^%d+$') then is_wrong('miscounted', queue, noted .. ' ' .. n) end
  end
end

local next_cursor, kind, read = '0', redis.call('TYPE', KEY).ok, 0
if kind == 'list' then
  local since = tonumber(cursor)
  local priority, queue = string.match(name, '^turn:(.*):(%d)$')
  priority, queue = queue, priority
  local found = redis.call('LRANGE', KEY, since, since + count - 1)
  read = #found
  for _, entry in ipairs(found) do
    local key, comma = string.match(entry, '^([^,]*)(,?)')
    if known(key).lines[priority .. ':' .. queue .. comma] ~= 't' then is_wrong('unnoted', key, name) end
  end
  if since + read < redis.call('LLEN', KEY) then next_cursor = string.format('%.0f', since + math.max(read, 1)) end
elseif SCANS[kind] then
  local found
  next_cursor, found = unpack(redis.call(SCANS[kind], KEY, cursor, 'COUNT', count))
  read = #found
  if what == 'pairs' then
    for i = 1, #found, 2 do look_at_pair(found[i], found[i + 1]) end
  elseif what == 'lines' and name == 'pairs' then
    for i = 1, #found, 2 do lines[#lines + 1] = 'line:' .. found[i] end
  elseif what == 'known' or what == 'lines' then
    for i = 1, #found, 2 do (what == 'known' and look_at or tell_lines)(found[i], found[i + 1]) end
  elseif what == 'permits' and #found > 0 then
    local held = holders_of(found)
    for _, id in ipairs(found) do
      if not held[id] then is_wrong('leaked', id, name) end
    end
  elseif what == 'counts' then
    for i = 1, #found, 2 do
      if not string.find(found[i + 1], '^[1-9]%d*$') then is_wrong('uncounted', found[i]) end
    end
  elseif what == 'limits' then
    local order = ' ' .. (redis.call('HGET', LIMITS, '#') or '') .. ' '
    for i = 1, #found, 2 do
      local pattern = found[i]
      if pattern ~= '#' and pattern ~= '?' then
        local is_wild = string.find(pattern, '*', 1, true)
        if not string.find(found[i + 1], '^[ds] %d+ .+$') or (is_wild and not string.find(order, ' ' .. pattern .. ' ', 1, true)) then
          is_wrong('unlimited', pattern)
        end
      end
    end
  elseif what == 'under' then
    for i = 1, #found, 2 do
      local line = redis.pcall('HGET', LIMITS, found[i])
      if not line or (type(line) == 'string' and string.find(line, '^d ')) then is_wrong('uncovered', found[i]) end
    end
  end
end
if what == 'counts' and cursor == '0' and not (mistyped(KEYED, 'hash') or mistyped(KNOWN, 'hash') or mistyped(PAIRS, 'hash')) then
  recount()
end
return {next_cursor, read, lines, wrong}
