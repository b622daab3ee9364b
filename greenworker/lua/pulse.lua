-- Stands before beat and reap: whether leases that have run out mean anything.
--
-- While the server is away nobody can lengthen a lease. So whoever beats or sweeps leaves the moment;
-- if nobody had been heard of for longer than the quiet time, all leases are lengthened by one, so
-- that the living can say so. By a beat, too: else the sweep behind it would see no gap. Where leases
-- differ the quiet time is that of the shortest one: by a longer one's measure an outage may be none.

local LEAST_LEASE = 1000

local function as_lease(text, otherwise) return math.max(tonumber(text) or otherwise, LEAST_LEASE) end

local function shortest_lease(lease)
  local shortest = lease
  for _, other in ipairs(redis.call('HVALS', LEASES)) do
    shortest = math.min(shortest, as_lease(other, lease))
  end
  return shortest
end

-- Somebody is heard of; true when nobody had been for longer than the quiet time.
local function heard(now, lease, quiet)
  local last = tonumber(redis.call('GET', PULSE) or 0) or 0
  redis.call('SET', PULSE, now)
  -- As a rule there is no need to look at everybody's lease.
  if (now - last) * lease <= quiet * LEAST_LEASE then return false end
  if (now - last) * lease <= quiet * shortest_lease(lease) then return false end
  local all = redis.call('ZRANGE', WORKERS, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local own = as_lease(redis.call('HGET', LEASES, all[i]), lease)
    redis.call('ZADD', WORKERS, 'XX', math.max(tonumber(all[i + 1]), now + own), all[i])
  end
  return true
end
