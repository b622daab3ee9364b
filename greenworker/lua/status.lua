-- status: what is where, for people. Reads only.
--
-- Returns {now ms, scheduled, dead, next due ms or -1, [counter, n, ...],
--          [queue, waiting, suspects, consumers, ...], [wid, lease ms, held, about, ...]}

local queues, workers = {}, {}
local names = redis.call('SMEMBERS', QUEUES)
table.sort(names)
for _, queue in ipairs(names) do
  local waiting = 0
  for priority = 0, 9 do waiting = waiting + redis.call('LLEN', ready_key(queue, priority)) end
  queues[#queues + 1] = queue
  queues[#queues + 1] = waiting
  queues[#queues + 1] = redis.call('LLEN', suspects_key(queue))
  queues[#queues + 1] = redis.call('SCARD', consumers_key(queue))
end
local leases = redis.call('ZRANGE', WORKERS, 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do
  local wid = leases[i]
  workers[#workers + 1] = wid
  workers[#workers + 1] = tonumber(leases[i + 1])
  workers[#workers + 1] = redis.call('HLEN', processing_key(wid))
  workers[#workers + 1] = redis.call('HGET', ABOUT, wid) or '{}'
end
for _, wid in ipairs(redis.call('SMEMBERS', CORPSES)) do
  workers[#workers + 1] = wid
  workers[#workers + 1] = 0
  workers[#workers + 1] = redis.call('HLEN', processing_key(wid))
  workers[#workers + 1] = redis.call('HGET', ABOUT, wid) or '{}'
end
local due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]
return {now_ms(), redis.call('ZCARD', SCHEDULED), redis.call('ZCARD', DEAD), tonumber(due or -1),
  redis.call('HGETALL', STATS), queues, workers}
