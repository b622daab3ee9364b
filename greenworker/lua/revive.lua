-- revive: dead letters become messages again, at the back of their queues.
--
-- ARGV  revival id, its ttl ms, most bytes, 'dry' (look, change nothing) or '',
--       then for each: id, when it died in ms, or '' for whenever it was
-- Returns a letter for each of the first of them, as many as the bytes allow:
--         r revived, g gone (no such dead letter: it may have died again), p present again, u unreadable,
--         l another one like it is there and holds the lock that this one would need;
--         the same revival id again answers the same and does nothing.
--
-- What a revived message keeps is the whole envelope but for deliveries and attempt, which are
-- 0 again, and for what a worker noted of an unknown task or of an attempt. Where its expires has passed, it may
-- wait once more for as long as it might at first. Where marks are, it counts as sent now: they were meant for
-- what was there.
-- The first write is one that Redis refuses at maxmemory: then nothing is revived.

local PUSH, ttl, most, dry = ROOT .. 'push:' .. ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == 'dry'
local FIRST = 5

require_type(MSG, 'hash')
require_type(QUEUES, 'set')
require_type(STATS, 'hash')
require_type(DEAD, 'zset')
require_type(RECORDS, 'hash')

local before = redis.call('GET', PUSH)
if before then return before end

local now = now_ms()
local is_sent_anew = are_marks()
local function fresh(envelope)
  local newline = string.find(envelope, '\n', 1, true) or #envelope + 1
  local line, body = string.sub(envelope, 1, newline - 1), string.sub(envelope, newline)
  local priority, sent, expires, rest = string.match(line, '^1 %d+ %d+ (%d) (%d+) (%d+) (.*)$')
  if expires ~= '0' and tonumber(expires) <= now then
    local span = tonumber(expires) - tonumber(sent)
    expires = span > 0 and string.format('%.0f', now + span) or '0'
  end
  if is_sent_anew then sent = string.format('%.0f', now) end
  for _, note in ipairs({'unknown', 'last'}) do rest = string.gsub(rest, ' ' .. note .. '=[^ ]*', '', 1) end
  return '1 0 0 ' .. priority .. ' ' .. sent .. ' ' .. expires .. ' ' .. rest .. body
end

-- All are looked at before the first write.
local reply, ids, envelopes, seen, checked, bytes = {}, {}, {}, {}, {}, 0
local locks, taken = {}, {}
local function is_locked(envelope)
  local lock = lock_in(envelope)
  if not lock then return false end
  local wrong = wrong_locks()
  if wrong then refuse(wrong) end
  return taken[lock] or holder_of(lock, now) ~= nil
end
for i = FIRST, #ARGV, 2 do
  local id, died = ARGV[i], ARGV[i + 1]
  bytes = bytes + redis.call('HSTRLEN', RECORDS, id)
  if bytes > most and i > FIRST then break end
  local record = redis.call('HGET', RECORDS, id)
  if record and died ~= '' and died_at(record) ~= tonumber(died) then record = nil end
  local from = record and envelope_at(record)
  local is_whole = from and string.find(record, '^%d+ %S+ %S+ 0\n')
  local envelope = is_whole and string.sub(record, from) or ''
  local _, _, priority, _, _, _, queue = head(envelope)
  if not record or seen[id] then
    reply[#reply + 1] = 'g'
  elseif redis.call('HEXISTS', MSG, id) == 1 then
    reply[#reply + 1] = 'p'
  elseif not queue then
    reply[#reply + 1] = 'u'
  elseif is_locked(envelope) then
    reply[#reply + 1] = 'l'
  else
    local lock = lock_in(envelope)
    if lock then locks[#ids + 1], taken[lock] = lock, true end
    seen[id] = true
    local key = home(fresh(envelope))
    if not checked[key] then
      require_home(fresh(envelope))
      checked[key] = true
    end
    reply[#reply + 1] = 'r'
    ids[#ids + 1] = id
    envelopes[#envelopes + 1] = envelope
  end
end
reply = table.concat(reply)
if dry then return reply end

redis.call('SET', PUSH, reply, 'PX', ttl)
if #ids == 0 then return reply end
for k, id in ipairs(ids) do
  local envelope = fresh(envelopes[k])
  redis.call('HSET', MSG, id, envelope)
  if locks[k] then redis.call('HSET', UNIQUE, locks[k], id) end
  redis.call('DEL', result_key(id))
  make_ready(id, envelope, false, now)
end
redis.call('ZREM', DEAD, unpack(ids))
redis.call('HDEL', RECORDS, unpack(ids))
redis.call('HINCRBY', STATS, 'revived', #ids)
close_lines(now)
wake_all()
return reply
