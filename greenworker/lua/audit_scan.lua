-- audit_scan: a chunk of one key, and what is wrong with it at this very moment. Reads only.
--
-- ARGV  what, key without the root, cursor, count, most bytes
--       what   names      whatever it is: nothing is judged
--              messages   msg: every envelope can be read
--              place      where ids are: each is a message, in the list that its envelope names; its permits are counted;
--                         the line of a key, or of two, is noted
--              suspected  suspected:<wid>: the worker holds each of them
--              members    about, leases, seq, consumers: each is a worker, alive or being drained; what
--                         leases and seq say of one is a positive number
--              owned      what belongs to one incarnation: that it exists
--              dead       each has a record, and is no message
--              records    each is a dead letter
--              locks      unique: each is held by a message that knows it
--              filters    seen: each can be read
-- Returns {next cursor, bytes read, {id or worker, ...}, {what is wrong, id or worker, detail, ...}}.
--         next cursor '0': that was all. Of a list it is an index from the left, of the last one
--         returned: only pushes move what is behind it, further to the right, so that a scan misses
--         nothing that stays in the list, and knows again where it was.

local what, name, cursor, count, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local KEY = ROOT .. name
local SCANS = {hash = 'HSCAN', set = 'SSCAN', zset = 'ZSCAN'}

local kind = redis.call('TYPE', KEY).ok
local names, bytes, wrong = {}, 0, {}

local function is_wrong(how, id, detail)
  wrong[#wrong + 1] = how
  wrong[#wrong + 1] = id
  wrong[#wrong + 1] = detail or ''
end

local function is_worker(wid)
  return redis.call('ZSCORE', WORKERS, wid) or redis.call('SISMEMBER', CORPSES, wid) == 1
end

local IS_NUMBERS = {leases = true, seq = true}
local function is_positive(value) return #value <= 15 and string.find(value, '^[1-9]%d*$') end

local function is_message(id) return redis.call('HEXISTS', MSG, id) == 1 end

local owner
for _, family in ipairs({'processing', 'suspected', 'solitary', 'cancels'}) do
  owner = owner or string.match(name, '^' .. family .. ':(.*)$')
end

local next_cursor = '0'
if kind == 'list' then
  local since = tonumber(cursor)
  names = redis.call('LRANGE', KEY, since, since + count - 1)
  if what == 'place' and #names > 0 then
    for i, id in ipairs(names) do
      local size = redis.call('HSTRLEN', MSG, id)
      if bytes > 0 and bytes + size > most then
        names = {unpack(names, 1, i - 1)}
        break
      end
      bytes = bytes + size
    end
    for i, envelope in ipairs(redis.call('HMGET', MSG, unpack(names))) do
      local key = home(envelope or '')
      if not envelope then
        is_wrong('missing', names[i])
      elseif key and key ~= KEY then
        is_wrong('misplaced', names[i], string.sub(key, #ROOT + 1))
      end
    end
  end
  local at, of = string.match(name, '^line:(%d:[^ ]*) (.*)$')
  if what == 'place' and at and since == 0 and #names > 0 then
    local is_noted
    if string.find(of, ',', 1, true) then
      is_noted = redis.pcall('HEXISTS', PAIRS, at .. ' ' .. of) ~= 0
    else
      is_noted = known(of).lines[at]
    end
    if not is_noted then is_wrong('unvisited', of, name) end
  end
  if since + #names < redis.call('LLEN', KEY) then
    next_cursor = string.format('%.0f', since + math.max(#names - 1, 1))
  end
elseif SCANS[kind] then
  local found
  next_cursor, found = unpack(redis.call(SCANS[kind], KEY, cursor, 'COUNT', count))
  local step = kind == 'set' and 1 or 2
  for i = 1, #found, step do
    local id, value = found[i], found[i + 1]
    names[#names + 1] = id
    if kind == 'hash' then bytes = bytes + #value end
    if what == 'messages' then
      if not head(value) then is_wrong('unreadable', id) end
    elseif what == 'place' then
      -- (Of a worker that holds what is large not all are read.)
      local size = owner and redis.call('HSTRLEN', MSG, id) or 0
      bytes = bytes + size
      if not is_message(id) then
        is_wrong('missing', id)
      elseif size > 0 and bytes <= most then
        for _, key in ipairs({keys_in(redis.call('HGET', MSG, id))}) do
          if redis.pcall('SISMEMBER', held_key(key), id) == 0 then is_wrong('unpermitted', id, key) end
        end
      end
    elseif what == 'members' then
      if not is_worker(id) then
        is_wrong('stranger', id)
      elseif IS_NUMBERS[name] and not is_positive(value) then
        is_wrong('unnumbered', id)
      end
    elseif what == 'dead' then
      if redis.call('HEXISTS', RECORDS, id) == 0 then is_wrong('unrecorded', id) end
      if is_message(id) then is_wrong('undead', id) end
    elseif what == 'locks' then
      local envelope = redis.call('HGET', MSG, value) or ''
      bytes = bytes + #envelope
      if lock_in(envelope) ~= id then is_wrong('abandoned', id, value) end
    elseif what == 'filters' then
      if not string.find(value, id == '#' and '^%d+$' or '^%d+ %d+ %d+ %d+$') then is_wrong('unknown', id) end
    elseif what == 'records' then
      if not redis.call('ZSCORE', DEAD, id) then is_wrong('undated', id) end
    elseif what == 'suspected' then
      -- Of a corpse, the deliveries go first, in chunks.
      local wid = string.match(name, '^suspected:(.*)$')
      if redis.call('ZSCORE', WORKERS, wid) and redis.call('HEXISTS', processing_key(wid), id) == 0 then
        is_wrong('unheld', id)
      end
    end
  end
end

-- What belongs to one incarnation as a whole.
local SIZES = {hash = 'HLEN', zset = 'ZCARD', set = 'SCARD', string = 'EXISTS'}
if owner and SIZES[kind] and what ~= 'names' and not is_worker(owner) then
  is_wrong('ownerless', owner, redis.call(SIZES[kind], KEY))
end
return {next_cursor, bytes, names, wrong}
