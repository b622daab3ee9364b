-- Stands before every script that moves messages: what is allowed of a key, and what is known of it.
--
-- A key is what a limit is counted by; a message names one or two in its head: keys=<key>%2C<key>. Whoever runs it holds
-- a permit of each (held:<key>), from the claim until it is settled or reaped.
--
-- What is damaged here costs a limit, never a message: hence the pcalls, where a message is on its way.

local KEYED = ROOT .. 'keyed'

-- What handles keys is made when the first one is met: for a script that meets none, to make fifty functions would take a
-- tenth of its time.
local keyed, need_keys = {}, nil

-- As a head has them: one, or two with %2C between.
local function split_keys(text)
  local first, second = string.match(text or '', '^([%w_.:~/@%%-]+)'), nil
  if first and string.find(first, '%2C', 1, true) then first, second = string.match(first, '^(..-)%%2C(.+)$') end
  if second == first then second = nil end
  if not first or #first > 600 or #(second or '') > 600 then return nil end
  need_keys()
  return first, second
end

-- What almost none has. (Most are short, and then it is quicker to look through all of it than to cut off the head.)
local function may_have_keys(envelope)
  return #envelope >= 2000 or string.find(envelope, ' keys=', 1, true)
end

-- A message's keys, as a rule none.
local function find_keys(envelope)  -- seldom
  local line = string.sub(envelope, 1, string.find(envelope, '\n', 1, true) or 0)
  local at = string.find(line, ' keys=', 1, true)
  if at then return split_keys(string.match(line, '^[^ \n]+', at + 6)) end
end
local function keys_in(envelope)
  if may_have_keys(envelope) then return find_keys(envelope) end
end

local function make_limits()
local LIMITS, KNOWN = ROOT .. 'limits', ROOT .. 'keys'
local LATER, IDLE = ROOT .. 'later', ROOT .. 'idle'
-- When nothing but a permit that comes back, or somebody's word, can change it.
local NEVER = math.huge
local FOR_EVER = 9000000000000000
local CLOSED, CIRCUIT, STOPPED = 0, 1, 2
-- ms for which starts are counted.
local WINDOW = 10000
-- What is known of each key that this script has met.
local known_here = {}
local limit_for, note_patterns, known, out, refusal, start, throttle, note_end
local memorable_until, close_keys, find_lines, held_key

function held_key(key) return ROOT .. 'held:' .. key end

-- ms: so long a key is remembered that nothing waits for or runs; and one that was throttled last.
local REMEMBER, REMEMBER_STRIKES = 15000, 3600000
-- ms: the first pause after a throttle that names none; the longest that it doubles to; the longest and the shortest that is believed.
local PAUSE, PAUSE_MOST, HOLD_MOST, HOLD_LEAST = 1000, 300000, 3600000, 100
-- Throttles one after the other until its circuit is open: then one message at a time, until one has got through.
local CIRCUIT_AFTER = 5
-- Characters that durations may have which are kept: some twenty of them.
local TOOK_MOST = 120

-- limits['#']: a number that grows with each change, and the patterns that have a *, the most specific one first.
local generation, wild, by_ends, lengths
local function read_generation()
  local line = redis.pcall('HGET', LIMITS, '#')
  generation, wild = string.match(type(line) == 'string' and line or '', '^(%S+) ?(.*)$')
  generation, wild, by_ends = generation or '0', wild or '', nil
end

-- Those patterns as text, in the order in which they count.
local function wild_ones()
  local found, order = {}, {}
  for _, pattern in ipairs(redis.call('HKEYS', LIMITS)) do
    -- (Neither # nor ? can be in a pattern.)
    local _, stars = string.gsub(pattern, '*', '*')
    if stars > 0 then
      found[#found + 1] = pattern
      order[pattern] = #pattern - stars
    end
  end
  table.sort(found, function(a, b)
    if order[a] ~= order[b] then return order[a] > order[b] end
    return a < b
  end)
  return table.concat(found, ' ')
end

-- After these have changed: what is known of each key is known by limits that are no more.
function note_patterns(changed)
  read_generation()
  -- (To look at all is work where there are thousands.)
  if generation == '0' or string.find(table.concat(changed, ' '), '*', 1, true) then wild = wild_ones() end
  generation = string.format('%.0f', (tonumber(generation) or 0) + 1)
  redis.call('HSET', LIMITS, '#', generation .. ' ' .. wild)
end

-- Patterns by what they begin and end with, so that not each is compared with each key.
local function read_wild()
  by_ends, lengths = {}, {}
  local order = 0
  for pattern in string.gmatch(wild, '%S+') do
    local first, between, last = string.match(pattern, '^([^*]*)%*(.*)$')
    between, last = string.match(between or '', '^(.-)%*?([^*]*)$')
    local ends, at = (first or '') .. '*' .. last, #(first or '') .. ' ' .. #last
    order = order + 1
    if not lengths[at] then lengths[at] = {#(first or ''), #last} end
    if not by_ends[ends] then by_ends[ends] = {} end
    table.insert(by_ends[ends], {order = order, pattern = pattern, between = between})
  end
end

-- The first pattern that fits a key and still is there, and its line; or nil.
local function wild_limit_for(key)
  if not by_ends then read_wild() end
  local fitting = {}
  for _, of in pairs(lengths) do
    local begin, last = of[1], #key - of[2]
    for _, one in ipairs(begin <= last and by_ends[string.sub(key, 1, begin) .. '*' .. string.sub(key, last + 1)] or {}) do
      local _, ends = string.find(key, one.between, begin + 1, true)
      if ends and ends <= last then fitting[#fitting + 1] = one end
    end
  end
  table.sort(fitting, function(a, b) return a.order < b.order end)
  for _, one in ipairs(fitting) do
    local line = redis.pcall('HGET', LIMITS, one.pattern)
    if type(line) == 'string' then return one.pattern, line end
  end
end

-- The limit that counts for a key: its own, or that of the first pattern that fits. Returns pattern and spec, or nil.
function limit_for(key)
  local pattern, line = key, redis.pcall('HGET', LIMITS, key)
  if type(line) ~= 'string' then pattern, line = wild_limit_for(key) end
  if line then return pattern, string.match(line, '^%a %d+ (.*)$') end
end

-- A number that can be reckoned with, or nil.
local function number_of(text)
  local number = tonumber(text or '')
  return number and number >= 0 and number < 1e15 and number or nil
end

-- '100/60000', starts per ms, as ms per start.
local function interval_of(rate)
  local starts, ms = string.match(rate or '', '^([%d.]+)/([%d.]+)$')
  starts, ms = number_of(starts), number_of(ms)
  return starts and ms and starts > 0 and ms > 0 and ms / starts or nil
end

-- A spec as numbers; what is not limited, and what makes no sense, is nil.
local function read_spec(spec)
  local said = {}
  for name, value in string.gmatch(spec or '', '(%l+)=(%S+)') do said[name] = value end
  return {concurrency = number_of(said.concurrency), delay = number_of(said.delay), interval = interval_of(said.rate),
    burst = number_of(said.burst), adaptive = said.adaptive == '1',
    slowest = interval_of(said.floor), fastest = interval_of(said.ceiling)}
end

-- What is known of a key, a line of that hash:
--     <generation> <tat> <last> <hold> <strikes> <struck> <phase> <rate> <window> <throttled> <took,took> <lines> <spec>
-- generation  of the limits by which `spec` is the one that counts
-- tat         the theoretical arrival time of GCRA (ITU-T I.371), ms
-- last        when one was started last, ms
-- hold        nothing is handed out until then, ms
-- strikes     throttles one after the other; what began before `struck`, ms, tells of the last one
-- phase       its circuit is closed 0, open 1, or somebody has stopped it 2
-- rate        what adapt.lua knows, or -
-- window      starts: since when, so many, so many in the window before
-- throttled   in all
-- took        how long the last ones ran, ms
-- lines       where it has messages: t<priority>:<queue> takes turns, p<priority>:<queue> is parked, with ; between; with a
--             comma behind the queue, pairs
local STATE = '^(%S+) ([%d.]+) (%d+) (%d+) (%d+) (%d+) (%d) (%S+) (%d+,%d+,%d+) (%d+) (%S+) (%S+) (.*)$'

-- And whether that is all that the text says.
local function read_lines(text)
  local lines, size = {}, text == '-' and 1 or -1
  for how, at in string.gmatch(text, '([tp])(%d:[^;,]+,?)') do
    lines[at], size = how, size + #at + 2
  end
  return lines, size == #text
end

-- Where a key has lines, if what was known of it cannot be read: they are parked, for all we know.
function find_lines(key)
  local lines, queues = {}, redis.pcall('SMEMBERS', QUEUES)
  for _, queue in ipairs(queues.err and {} or queues) do
    for priority = 0, 9 do
      local at = priority .. ':' .. queue
      if redis.call('EXISTS', ROOT .. 'line:' .. at .. ' ' .. key) == 1 then lines[at] = 'p' end
      if redis.call('EXISTS', ROOT .. 'pairs:' .. at .. ' ' .. key) == 1 then lines[at .. ','] = 'p' end
    end
  end
  return lines
end

-- What is known of a key, by the limits as they are now.
function known(key)
  local one = known_here[key]
  if one then return one end
  if not generation then read_generation() end
  local line = redis.pcall('HGET', KNOWN, key)
  local gen, tat, last, hold, strikes, struck, phase, rate, window, throttled, took, lines, spec =
    string.match(type(line) == 'string' and line or '', STATE)
  local noted, is_whole = read_lines(lines or '-')
  one = {key = key, gen = gen, tat = tonumber(tat) or 0, last = tonumber(last) or 0, hold = tonumber(hold) or 0,
    strikes = tonumber(strikes) or 0, struck = tonumber(struck) or 0, phase = tonumber(phase) or CLOSED,
    rate = rate or '-', window = window or '0,0,0', throttled = tonumber(throttled) or 0, took = took or '-',
    lines = noted, spec = spec or '', started = 0, is_new = not line, is_damaged = line and not (gen and is_whole)}
  if one.is_damaged then one.lines, one.changed = find_lines(key), true end
  if gen ~= generation then
    local _, now_spec = limit_for(key)
    one.gen, one.spec, one.changed = generation, now_spec or '', true
  end
  one.allowed = read_spec(one.spec)
  known_here[key] = one
  return one
end

function out(one)
  if not one.out then
    local held = redis.pcall('SCARD', held_key(one.key))
    one.out = type(held) == 'number' and held or 0
  end
  return one.out
end

-- ms by which a start may be ahead of its rate. Where nobody has said how many may come at once, only what lets who comes some
-- ms late for its turn catch up: else a fast rate would never be reached. (Not of a slow one: who catches up always, never makes
-- up for one request that was late on its way. Of a rate that was found, adapt.lua says it.)
local LATE, FAST = 10, 200
local function ahead(allowed, interval)
  if allowed.adaptive and not allowed.interval then return 0 end
  return allowed.burst and (allowed.burst - 1) * interval or interval <= FAST and LATE or 0
end

-- The theoretical arrival time. After a run of starts it is so far ahead at most; further, and another rate was allowed then.
local function arrival(one, interval, lenient)
  return math.min(one.tat, math.max(one.last, one.hold) + ahead(one.allowed, interval) + interval + lenient)
end

-- If the server's clock was set back since, nothing is further ahead than it could be by now.
local function go_by_clock(one, now)
  local most = now + HOLD_MOST
  if one.last > now then
    -- A pause goes on from where it was then, and one that was over by then stays so.
    local by = one.last - now
    if one.hold < FOR_EVER then one.hold = math.max(0, one.hold - by) end
    one.last, one.changed, one.struck = now, true, math.max(0, one.struck - by)
    adapt.set_back(one, now)
  end
  if one.struck > most then one.struck, one.changed = most, true end
  if one.hold > most and one.phase ~= STOPPED then one.hold, one.changed = most, true end
end

-- Nil where one may start now; else when it may, in ms, or NEVER.
function refusal(one, now)
  go_by_clock(one, now)
  if one.phase == STOPPED then
    if one.hold > now then return one.hold < FOR_EVER and one.hold or NEVER end
    one.phase, one.changed = CLOSED, true
  end
  local allowed = one.allowed
  local most = allowed.concurrency
  if one.phase == CIRCUIT then most = math.min(most or 1, 1) end
  if most and out(one) >= most then return NEVER end
  local at = math.max(one.hold, one.last + (allowed.delay or 0))
  local interval, lenient = adapt.interval(one)
  if interval then
    at = math.max(at, arrival(one, interval, lenient) - ahead(allowed, interval) - lenient)
  end
  -- Scores are whole ms, and one that comes too early would be refused again.
  at = math.ceil(at)
  return at > now and at or nil
end

function start(one, id, now)
  adapt.started(one, now, math.max(one.last, one.last > 0 and one.hold or 0))
  local interval, lenient = adapt.interval(one)
  if interval then one.tat = math.max(arrival(one, interval, lenient), now) + interval end
  if redis.pcall('SADD', held_key(one.key), id) == 1 then one.out = one.out and one.out + 1 end
  one.last, one.changed, one.started = now, true, one.started + 1
end

-- Its window with those that were started here.
local function window_of(one)
  if one.started == 0 then return one.window end
  local since, n, before = string.match(one.window, '^(%d+),(%d+),(%d+)$')
  since, n = tonumber(since), tonumber(n)
  if one.last - since >= WINDOW or since > one.last then
    before, since, n = one.last - since < 2 * WINDOW and n or 0, one.last - one.last % WINDOW, 0
  end
  return string.format('%.0f,%d,%s', since, n + one.started, before)
end

-- The key's site has said: not so fast. `wait` ms, or less than 0 for as long as we think; `began` ms: when that run did.
function throttle(one, wait, began, now)
  go_by_clock(one, now)
  one.throttled, one.changed = one.throttled + 1, true
  -- What began before, or at the same time as others that have told it already, tells the same again.
  local tells = began >= one.struck
  local again = one.strikes > 0 and adapt.is_first(one, began)
  if tells and (again or one.strikes == 0) then one.strikes = one.strikes + 1 end
  local pause = math.min(PAUSE * 2 ^ math.min(one.strikes - 1, 30), PAUSE_MOST)
  if wait >= 0 and one.strikes <= 1 then pause = HOLD_LEAST end
  local resumes = now + math.min(math.max(wait, pause), HOLD_MOST)
  one.hold = math.max(one.hold, resumes)
  one.struck = math.max(one.struck, resumes)
  if not tells then return end
  if one.strikes >= CIRCUIT_AFTER and one.phase == CLOSED then one.phase = CIRCUIT end
  adapt.slower(one, now, again, resumes)
  -- Slowly from the first start on: no burst has been saved up.
  local interval = one.allowed.adaptive and adapt.interval(one)
  if interval then one.tat = resumes + ahead(one.allowed, interval) end
end

-- How a run that began then has ended: it got through, or it failed of something else.
function note_end(one, took, passed, began, now)
  go_by_clock(one, now)
  one.changed = true
  -- What has failed in no time was no run: an unknown task, say.
  if passed or took > 0 then
    one.took = (one.took == '-' and '' or one.took .. ',') .. string.format('%.0f', took)
    local over = #one.took - TOOK_MOST
    if over > 0 then one.took = string.sub(one.took, string.find(one.took, ',', over, true) + 1) end
  end
  if began < one.struck then return end
  if passed then
    one.strikes = 0
    if one.phase == CIRCUIT then one.phase = CLOSED end
    adapt.faster(one, took, began, now)
    return
  end
  adapt.failed(one)
  if one.phase == CIRCUIT then
    one.hold = math.max(one.hold, now + math.min(PAUSE * 2 ^ math.min(one.strikes - 1, 30), PAUSE_MOST))
  end
end

-- Until when a key that nothing waits for or runs is to be remembered, ms.
function memorable_until(one)
  if one.hold >= FOR_EVER then return NEVER end
  local at = math.max(one.last + (one.allowed.delay or 0), one.tat, one.hold, one.last + REMEMBER)
  if one.strikes > 0 then at = math.max(at, one.last + REMEMBER_STRIKES) end
  return math.max(at, one.last + adapt.worth(one))
end

local function text_of(one)
  local lines
  for at, how in pairs(one.lines) do lines = (lines and lines .. ';' or '') .. how .. at end
  return string.format('%s %.3f %.0f %.0f %d %.0f %d %s %s %.0f %s %s %s', one.gen, one.tat, one.last, one.hold,
    one.strikes, one.struck, one.phase, adapt.text(one), window_of(one), one.throttled, one.took, lines or '-', one.spec)
end

-- (Lua cannot hand over more than some thousands.)
local FIELDS_MOST = 1000

-- After the last change: what is known of each key that was met.
function close_keys(now)
  local fields = {}
  for key, one in pairs(known_here) do
    if one.changed then
      fields[#fields + 1] = key
      fields[#fields + 1] = text_of(one)
      if not next(one.lines) then redis.pcall('ZADD', IDLE, 'NX', string.format('%.0f', now + REMEMBER), key) end
    end
  end
  for i = 1, #fields, FIELDS_MOST do redis.pcall('HSET', KNOWN, unpack(fields, i, math.min(i + FIELDS_MOST - 1, #fields))) end
end

keyed.LIMITS, keyed.KNOWN, keyed.LATER, keyed.IDLE = LIMITS, KNOWN, LATER, IDLE
keyed.NEVER, keyed.FOR_EVER, keyed.CLOSED, keyed.CIRCUIT = NEVER, FOR_EVER, CLOSED, CIRCUIT
keyed.STOPPED, keyed.WINDOW, keyed.STATE, keyed.known_here = STOPPED, WINDOW, STATE, known_here
keyed.limit_for, keyed.note_patterns = limit_for, note_patterns
keyed.known, keyed.out, keyed.refusal, keyed.start, keyed.throttle = known, out, refusal, start, throttle
keyed.note_end, keyed.memorable_until, keyed.close_keys = note_end, memorable_until, close_keys
keyed.find_lines, keyed.held_key = find_lines, held_key
end
