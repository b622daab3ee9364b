-- purge: what waits in a queue is dropped, the next in line first. What is delayed, or waits for a retry, stays.
--
-- ARGV  queue, n, most bytes, ms: nothing that was sent later; '' for now; 'dry' (count, change nothing) or ''; where it
--       goes on with the lines of keys: '0' at first
-- Returns {purged, expired, entries that are no messages and were buried, that ms, 1 if there is more, cancelled
--         before, where to go on}; when dry, {how many wait, 0, 0, that ms, 0, 0, '0'}.
--
-- Who waits for one is told that it was cancelled. What had expired before is EXPIRED, as everybody was told.

local queue, n, most, before, dry = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == 'dry'
local cursor, CHUNK, CLEAR_MOST = ARGV[6], 100, 1000

require_type(MSG, 'hash')
require_type(KEYED, 'hash')
require_type(KNOWN, 'hash')
require_type(PAIRS, 'hash')
local lists = {suspects_key(queue)}
for priority = 9, 0, -1 do lists[#lists + 1] = ready_key(queue, priority) end
local waiting = tonumber(redis.call('HGET', KEYED, queue) or 0) or 0
for _, key in ipairs(lists) do
  require_type(key, 'list')
  waiting = waiting + redis.call('LLEN', key)
end
local now = now_ms()
before = before or now
if dry then return {waiting, 0, 0, before, 0, 0, '0'} end

redis.call('DEL', NIL)
local looked, bytes, more = 0, 0, 0

-- The next in line ends; false when it is to stay, since it came later or does not fit this call.
local function drop_next(key, is_line)
  local id = redis.call('LINDEX', key, -1)
  if not id then return false end
  local envelope = redis.call('HGET', MSG, id)
  local _, _, _, sent, _, ttl = head(envelope or '')
  if sent and tonumber(sent) > before then return false end
  local size = math.min(#(envelope or ''), LARGEST)
  if looked >= n or (bytes > 0 and bytes + size > most) then
    more = 1
    return false
  end
  looked, bytes = looked + 1, bytes + size
  redis.call('RPOP', key)
  if is_line then count_line(queue, -1) end
  if not weeded(id, envelope, now, 'purge') then finish(id, 'purged', tonumber(ttl), CANCELLED, (lock_in(envelope))) end
  return true
end

for _, key in ipairs(lists) do
  while more == 0 and drop_next(key) do end
end
-- Then the lines of pairs, and those of keys, which only what is known of them tells: a chunk, again and again until nothing
-- of it is left. (`k` goes before a cursor of keys.)
local of_keys = string.match(cursor, '^k(%d+)$')

-- An emptied one goes out of the way. (In a long list it is not looked for: who comes past it drops it.)
local function forget_pair(place, priority, pair, side)
  local first, second = string.match(pair, '^([^,]+),([^,]+)$')
  local list = first and pairs_key(queue, priority, side == '2' and second or first)
  local length = list and redis.pcall('LLEN', list)
  if type(length) ~= 'number' or length > CLEAR_MOST then return end
  redis.call('LREM', list, 0, pair)
  redis.call('HDEL', PAIRS, place)
  local one, at = known(side == '2' and second or first), priority .. ':' .. queue .. ','
  if one.lines[at] == 'p' and redis.call('LLEN', list) == 0 then one.lines[at], one.changed = nil, true end
end

if more == 0 and not of_keys and redis.call('HEXISTS', KEYED, queue) == 1 then
  local next_cursor, found = unpack(redis.call('HSCAN', PAIRS, cursor, 'COUNT', CHUNK))
  for i = 1, #found, 2 do
    local priority, of, pair = string.match(found[i], '^(%d):([^ ]+) (.*)$')
    local line = of == queue and line_key(queue, priority, pair)
    while line and not mistyped(line, 'list') and more == 0 and drop_next(line, true) do end
    if line and redis.pcall('LLEN', line) == 0 then forget_pair(found[i], priority, pair, found[i + 1]) end
  end
  if more == 0 then
    of_keys = next_cursor == '0' and '0'
    cursor = next_cursor
    if not of_keys then more = 1 end
  end
end
if more == 0 and redis.call('HEXISTS', KEYED, queue) == 1 then
  cursor = of_keys
  local next_cursor, found = unpack(redis.call('HSCAN', KNOWN, cursor, 'COUNT', CHUNK))
  for i = 1, #found, 2 do
    for how, at in string.gmatch(select(12, string.match(found[i + 1], STATE)) or '', '([tp])([^;]+)') do
      local of, priority, comma = placed(at)
      local key = of == queue and comma == '' and line_key(queue, priority, found[i])
      -- By its type: too late to refuse any.
      while key and not mistyped(key, 'list') and more == 0 and drop_next(key, true) do end
      if key and how == 'p' and redis.pcall('LLEN', key) == 0 then
        local one = known(found[i])
        one.lines[at], one.changed = nil, true
      end
    end
  end
  if more == 0 and next_cursor ~= '0' then more, cursor = 1, next_cursor end
  cursor = 'k' .. cursor
end
if more == 0 and clear_turns(queue, CLEAR_MOST) then more = 1 end
redis.call('DEL', room_key(queue))
local told = {counted.purged or 0, counted.expired or 0, counted.foreign or 0, before, more, counted.cancelled or 0, cursor}
close_lines(now)
close()
return told
