-- status: what is where, for people. Reads only; a key of a wrong type counts as one that is not there.
--
-- Returns {now ms, scheduled, dead, next due ms or -1, [counter, n, ...],
--          [queue, waiting, suspects, consumers, 1 if it is paused, of what waits by a key, ...], [wid, lease ms, held, about, ...]}

local function is_a(wanted, key) return redis.call('TYPE', key).ok == wanted end

local SIZES = {list = 'LLEN', set = 'SCARD', zset = 'ZCARD', hash = 'HLEN'}
local function size(wanted, key) return is_a(wanted, key) and redis.call(SIZES[wanted], key) or 0 end
local function members(key) return is_a('set', key) and redis.call('SMEMBERS', key) or {} end
local function scored(key, last) return is_a('zset', key) and redis.call('ZRANGE', key, 0, last, 'WITHSCORES') or {} end

local queues, workers = {}, {}
local names, known_queues, paused = members(QUEUES), {}, {}
for _, queue in ipairs(names) do known_queues[queue] = true end
for _, queue in ipairs(members(PAUSED)) do
  paused[queue] = 1
  -- The other word there (marks.lua) is no queue.
  if not known_queues[queue] and queue ~= '*' then names[#names + 1] = queue end
end
table.sort(names)
local KEYED = ROOT .. 'keyed'
local are_keyed = is_a('hash', KEYED)
for _, queue in ipairs(names) do
  local waiting = 0
  for priority = 0, 9 do waiting = waiting + size('list', ready_key(queue, priority)) end
  queues[#queues + 1] = queue
  local keyed = are_keyed and tonumber(redis.call('HGET', KEYED, queue) or 0) or 0
  queues[#queues + 1] = waiting + keyed
  queues[#queues + 1] = size('list', suspects_key(queue))
  queues[#queues + 1] = size('set', consumers_key(queue))
  queues[#queues + 1] = paused[queue] or 0
  queues[#queues + 1] = keyed
end

local known = is_a('hash', ABOUT)
local function add_worker(wid, lease)
  workers[#workers + 1] = wid
  workers[#workers + 1] = lease
  workers[#workers + 1] = size('hash', processing_key(wid))
  workers[#workers + 1] = known and redis.call('HGET', ABOUT, wid) or '{}'
end
local leases = scored(WORKERS, -1)
for i = 1, #leases, 2 do add_worker(leases[i], tonumber(leases[i + 1])) end
for _, wid in ipairs(members(CORPSES)) do add_worker(wid, 0) end

return {now_ms(), size('zset', SCHEDULED), size('zset', DEAD), tonumber(scored(SCHEDULED, 0)[2] or -1),
  is_a('hash', STATS) and redis.call('HGETALL', STATS) or {}, queues, workers}
