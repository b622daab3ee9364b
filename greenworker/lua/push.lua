-- push: all messages or none; the same push id again is a no-op, and so is an id
-- that is already present.
--
-- ARGV  push id, its ttl ms, then for each message:
--       id, queue, priority, due, expires, rest
--       due and expires: '' (now, never), '+ms' from now, or an absolute ms
--       rest: 'result-ttl queue task options\nbody'
-- Returns how many were new; -1 when this push id had been carried out before.
--
-- The first write is one that Redis refuses at maxmemory: then nothing is sent.

local PUSH = ROOT .. 'push:' .. ARGV[1]
local FIELDS, FIRST, PORTION = 6, 3, 100

if #ARGV < FIRST then return 0 end
local buried = require_sending()
-- Whether all are as nearly all are: new, each with an id of its own, due now, and without a key.
local are_plain, ids, known, lists = true, {}, {}, {}
for i = FIRST, #ARGV, FIELDS do
  local id, list, first = ARGV[i], list_of(ARGV[i + 1], ARGV[i + 2], ARGV[i + 5])
  if not lists[list] then
    local wrong = wrong_line(ARGV[i + 1], ARGV[i + 2], list, first)
    if wrong then refuse(wrong) end
    lists[list] = {}
  end
  are_plain = are_plain and not first and ARGV[i + 3] == '' and not known[id]
  known[id], ids[#ids + 1] = true, id
end
for i = 1, #ids, PORTION do
  -- (One that is there is enough: it may be large, and so may the others.)
  if not are_plain then break end
  local there = read('hash', 'HMGET', MSG, unpack(ids, i, math.min(i + PORTION - 1, #ids)))
  for _, envelope in ipairs(there) do are_plain = are_plain and not envelope end
end
if not are_plain then
  require_type(MSG, 'hash')
  require_type(SCHEDULED, 'zset')
end

if not redis.call('SET', PUSH, '1', 'NX', 'PX', ARGV[2]) then return -1 end

local now, woken = now_ms(), {}

-- As send does it, but written together. Returns how many.
local function send_plain()
  local fields, results = {}, {}
  for n, id in ipairs(ids) do
    local i = FIRST + (n - 1) * FIELDS
    local queue, priority = ARGV[i + 1], ARGV[i + 2]
    fields[2 * n - 1], fields[2 * n] = id, sealed(priority, ARGV[i + 4], ARGV[i + 5], now)
    results[n] = result_key(id)
    table.insert(lists[ready_key(queue, priority)], id)
    woken[queue] = 'now'
  end
  redis.call('HSET', MSG, unpack(fields))
  redis.call('DEL', unpack(results))
  if buried > 0 and redis.call('HDEL', RECORDS, unpack(ids)) > 0 then redis.call('ZREM', DEAD, unpack(ids)) end
  for list, of in pairs(lists) do redis.call('LPUSH', list, unpack(of)) end
  return #ids
end

local function send_each()  -- seldom
  local sent = 0
  for i = FIRST, #ARGV, FIELDS do
    local id, queue, priority, due, expires, rest = unpack(ARGV, i, i + FIELDS - 1)
    if due ~= '' then due = moment(due, now) else due = now end
    if send(id, queue, priority, due, expires, rest, now, buried, woken) then sent = sent + 1 end
  end
  return sent
end

local sent = are_plain and send_plain() or send_each()
announce(sent, woken, now)
return sent
