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
local FIELDS, FIRST = 6, 3

require_sending()
local checked, firsts, seconds = {}, {}, {}
for i = FIRST, #ARGV, FIELDS do
  local key, first, second = list_of(ARGV[i + 1], ARGV[i + 2], ARGV[i + 5])
  firsts[i], seconds[i] = first or false, second
  if not checked[key] then
    local wrong = wrong_line(ARGV[i + 1], ARGV[i + 2], ARGV[i + 5])
    if wrong then refuse(wrong) end
    checked[key] = true
  end
end

if not redis.call('SET', PUSH, '1', 'NX', 'PX', ARGV[2]) then return -1 end

local now, buried = now_ms(), redis.call('ZCARD', DEAD)
local added, woken = 0, {}
for i = FIRST, #ARGV, FIELDS do
  local due = ARGV[i + 3]
  if due ~= '' then due = moment(due, now) else due = now end
  if send(ARGV[i], ARGV[i + 1], ARGV[i + 2], due, ARGV[i + 4], ARGV[i + 5], now, buried, woken, nil, firsts[i], seconds[i]) then
    added = added + 1
  end
end
announce(added, woken, now)
return added
