-- audit_totals: how much is where at one moment, and who is there. Reads only.
--
-- ARGV  further places, without the root: lists and processing lists that belong to nobody
-- Returns {now ms, messages, ids in all places, dead letters, their records, last sweep ms or 0,
--          [counter, n, ...], [wid, lease ms (0: a corpse), held, about, ...]}

local function size(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'list' then return redis.call('LLEN', key) end
  if kind == 'hash' then return redis.call('HLEN', key) end
  if kind == 'zset' then return redis.call('ZCARD', key) end
  return 0
end

local places, seen = 0, {}
local function add(key)
  if not seen[key] then
    seen[key] = true
    places = places + size(key)
  end
end

local function add_queue(queue)
  for priority = 0, 9 do add(ready_key(queue, priority)) end
  add(suspects_key(queue))
end

add(SCHEDULED)
for _, queue in ipairs(redis.call('SMEMBERS', QUEUES)) do add_queue(queue) end
-- What nobody can read is promoted to this one, whether anybody knows it or not.
add_queue('default')
for i = 1, #ARGV do add(ROOT .. ARGV[i]) end
-- What waits in lines of keys is counted where they move.
local KEYED = ROOT .. 'keyed'
for _, n in ipairs(redis.call('TYPE', KEYED).ok == 'hash' and redis.call('HVALS', KEYED) or {}) do
  places = places + (tonumber(string.match(n, '^%d+$')) or 0)
end

local workers = {}
local function add_worker(wid, lease)
  add(processing_key(wid))
  workers[#workers + 1] = wid
  workers[#workers + 1] = lease or 0
  workers[#workers + 1] = size(processing_key(wid))
  workers[#workers + 1] = redis.call('HGET', ABOUT, wid) or '{}'
end
local leases = redis.call('ZRANGE', WORKERS, 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do add_worker(leases[i], tonumber(leases[i + 1])) end
for _, wid in ipairs(redis.call('SMEMBERS', CORPSES)) do add_worker(wid, 0) end

-- A nil would end the reply there.
local swept = tonumber(redis.call('GET', SWEEP) or 0) or 0
return {now_ms(), size(MSG), places, size(DEAD), size(RECORDS), swept,
  redis.call('HGETALL', STATS), workers}
