-- limit_keys: what is known of keys, for people: a chunk of all, or of some that are named. Reads only.
--
-- ARGV  cursor, count, keys...; with keys a count of 0: also those of which nothing is known
-- Returns {next cursor, now ms, and twelve fields for each: key, pattern or '', spec, running, waiting, state, ms until which
--         it may start none or 0, starts a minute, p50 ms, p95 ms or -1, throttles in all, ms between two starts that it has learnt or 0}
--         state: open, busy (all permits out), later (for its delay or rate), throttled, circuit, held (by hand), stopped (concurrency=0)

local reply = {'0', now_ms()}
local now = reply[2]
require_type(KNOWN, 'hash')

-- Of the last durations: the share p of them was not longer.
local function percentile(took, p)
  local all = {}
  for ms in string.gmatch(took, '%d+') do all[#all + 1] = tonumber(ms) end
  if #all == 0 then return -1 end
  table.sort(all)
  return all[math.max(1, math.ceil(#all * p))]
end

local function per_minute(window)
  local since, n, before = string.match(window, '^(%d+),(%d+),(%d+)$')
  local age = now - tonumber(since)
  if age >= 2 * WINDOW then return 0 end
  if age >= WINDOW then return n * 60000 / WINDOW end
  -- What this window lacks of a whole one is taken from the one before.
  return (n + before * (WINDOW - age) / WINDOW) * 60000 / WINDOW
end

local function state_of(one)
  if one.phase == STOPPED and one.hold > now then return 'held' end
  if one.allowed.concurrency == 0 then return 'stopped' end
  if one.phase == CIRCUIT then return 'circuit' end
  if one.hold > now then return 'throttled' end
  local when = refusal(one, now)
  if when == NEVER then return 'busy' end
  return when and 'later' or 'open'
end

local function length_of(list)
  local length = redis.pcall('LLEN', list)
  return type(length) == 'number' and length or 0
end

-- What waits there of pairs. Of very many some are looked at, and the others are taken to be as long.
local pairs_left = 5000
local function in_pairs(queue, priority, key)
  local list = pairs_key(queue, priority, key)
  local count, total = length_of(list), 0
  local look = math.min(count, math.max(pairs_left, 10))
  pairs_left = pairs_left - look
  if count == 0 then return 0 end
  for _, pair in ipairs(redis.call('LRANGE', list, 0, look - 1)) do total = total + length_of(line_key(queue, priority, pair)) end
  return math.ceil(total * count / look)
end

local function show(key)
  local one = known(key)
  local pattern = limit_for(key)
  local waiting = 0
  for at in pairs(one.lines) do
    local queue, priority, comma = placed(at)
    if comma == ',' then
      waiting = waiting + in_pairs(queue, priority, key)
    else
      waiting = waiting + length_of(line_key(queue, priority, key))
    end
  end
  local when = refusal(one, now)
  local until_ms = when and when ~= NEVER and when or one.hold > now and one.hold or 0
  for _, field in ipairs({key, pattern or '', one.spec, out(one), waiting, state_of(one), until_ms, string.format('%.1f', per_minute(one.window)), percentile(one.took, 0.5), percentile(one.took, 0.95),
    one.throttled, string.format('%.3f', adapt.learnt(one))}) do
    reply[#reply + 1] = field
  end
end

if #ARGV > 2 then
  for i = 3, #ARGV do
    if ARGV[2] == '0' or redis.call('HEXISTS', KNOWN, ARGV[i]) == 1 then show(ARGV[i]) end
  end
else
  local cursor, found = unpack(redis.call('HSCAN', KNOWN, ARGV[1], 'COUNT', ARGV[2]))
  reply[1] = cursor
  for i = 1, #found, 2 do show(found[i]) end
end
return reply
