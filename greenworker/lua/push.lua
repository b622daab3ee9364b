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

require_type(MSG, 'hash')
require_type(SCHEDULED, 'zset')
require_type(QUEUES, 'set')
require_type(STATS, 'hash')
require_type(DEAD, 'zset')
require_type(RECORDS, 'hash')
local checked = {}
for i = FIRST, #ARGV, FIELDS do
  local key = ready_key(ARGV[i + 1], ARGV[i + 2])
  if not checked[key] then
    require_type(key, 'list')
    require_type(wake_key(ARGV[i + 1]), 'list')
    checked[key] = true
  end
end

if not redis.call('SET', PUSH, '1', 'NX', 'PX', ARGV[2]) then return -1 end

local now = now_ms()
local function moment(spec, none)
  if spec == '' then return none end
  if string.sub(spec, 1, 1) == '+' then return now + tonumber(string.sub(spec, 2)) end
  return tonumber(spec)
end

-- In full: Lua writes a number of 15 digits as 2.5e+14. And 0 would say: never.
local function deadline(spec)
  if spec == '' then return '0' end
  return string.format('%.0f', math.max(1, moment(spec)))
end

local buried = redis.call('ZCARD', DEAD)
local added, woken = 0, {}
for i = FIRST, #ARGV, FIELDS do
  local id, queue, priority = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local due = moment(ARGV[i + 3], now)
  local envelope = '1 0 0 ' .. priority .. ' ' .. now .. ' ' .. deadline(ARGV[i + 4]) .. ' ' .. ARGV[i + 5]
  if redis.call('HSETNX', MSG, id, envelope) == 1 then
    -- An id that is sent again begins anew: what is known of its former life would be wrong.
    redis.call('DEL', result_key(id))
    if buried > 0 and redis.call('HDEL', RECORDS, id) == 1 then redis.call('ZREM', DEAD, id) end
    added = added + 1
    if due > now then
      redis.call('ZADD', SCHEDULED, due, id)
    else
      redis.call('LPUSH', ready_key(queue, priority), id)
    end
    if not woken[queue] then
      woken[queue] = true
      redis.call('SADD', QUEUES, queue)
    end
    if due <= now then woken[queue] = 'now' end
  end
end
for queue, how in pairs(woken) do
  if how == 'now' then wake(queue) end
end
if added > 0 then redis.call('HINCRBY', STATS, 'enqueued', added) end
return added
