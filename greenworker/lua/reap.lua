-- reap: the deliveries of incarnations whose lease has run out come back.
--
-- ARGV  lease ms, longest quiet ms, n, max deliveries, incarnations whose process is proven gone...
-- Returns {extended, corpses found, messages returned, messages buried, corpses left,
--          the shortest lease ms of all}.
--
-- If nobody swept for longer than the quiet time, the server or all workers were away,
-- and old leases say nothing: all are lengthened by one lease and no lease is taken for over.
-- Where leases differ the quiet time is that of the shortest one, and whoever sweeps is told of
-- it, to sweep as often as it asks for: by a longer one's measure an outage may be none.
--
-- Blame: which of the messages killed the worker cannot be known. All are charged one delivery;
-- from the second on they are suspects, of which a worker runs a few at once; from the third on
-- they run without other suspects. If the corpse held suspects, only they are charged. Whoever is
-- charged max deliveries times as a suspect is buried.

-- A sweep also tidies up: dead letters that nobody's burying pushes out, and queues that nobody uses
-- any more, lest names that were used once pile up.

local lease, quiet, n, max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
require_type(MSG, 'hash')
require_type(SCHEDULED, 'zset')
require_type(QUEUES, 'set')
redis.call('DEL', NIL)

local now = now_ms()
local found = 0
local function declare_dead(wid)
  if redis.call('ZREM', WORKERS, wid) == 1 then
    redis.call('SADD', CORPSES, wid)
    found = found + 1
  end
end

local function is_used(queue)
  if redis.call('SCARD', consumers_key(queue)) + redis.call('LLEN', suspects_key(queue)) > 0 then return true end
  for priority = 0, 9 do
    if redis.call('LLEN', ready_key(queue, priority)) > 0 then return true end
  end
end

local FORGET_MOST, LOOK_AT_QUEUES = 100, 50

local function tidy()
  forget_dead(now, FORGET_MOST)
  for _, queue in ipairs(redis.call('SRANDMEMBER', QUEUES, LOOK_AT_QUEUES)) do
    if not is_used(queue) then
      -- What is scheduled there makes it known again when it is due.
      redis.call('SREM', QUEUES, queue)
      redis.call('DEL', wake_key(queue))
    end
  end
end

for i = 5, #ARGV do declare_dead(ARGV[i]) end
local shortest = lease
for _, other in ipairs(redis.call('HVALS', LEASES)) do shortest = math.min(shortest, tonumber(other)) end
local last = tonumber(redis.call('GET', SWEEP) or 0)
redis.call('SET', SWEEP, now)
if now - last > quiet * shortest / lease then
  local all = redis.call('ZRANGE', WORKERS, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local own = tonumber(redis.call('HGET', LEASES, all[i]) or lease)
    redis.call('ZADD', WORKERS, 'XX', math.max(tonumber(all[i + 1]), now + math.max(lease, own)), all[i])
  end
  return {1, found, 0, 0, redis.call('SCARD', CORPSES), shortest}
end

local expired = redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now, 'LIMIT', 0, 100)
for _, wid in ipairs(expired) do declare_dead(wid) end

local returned, buried = 0, 0
local wid = redis.call('SRANDMEMBER', CORPSES)
if wid then
  local PROCESSING = processing_key(wid)
  local suspected, any_suspected = {}, false
  for _, id in ipairs(redis.call('SMEMBERS', suspected_key(wid))) do
    suspected[id], any_suspected = true, true
  end
  local held = some_of(wid, n)
  for i = 1, #held, 2 do
    local id = held[i]
    local envelope = redis.call('HGET', MSG, id)
    local deliveries, _, _, _, _, ttl = head(envelope or '')
    if deliveries then
      if suspected[id] or not any_suspected then
        deliveries = tonumber(deliveries) + 1
        envelope = string.gsub(envelope, '^1 %d+', '1 ' .. deliveries, 1)
      end
      if suspected[id] and deliveries >= SUSPECT_AFTER + max then
        bury(id, tonumber(ttl), failure('WorkerCrashed', 'the worker died ' .. deliveries .. ' times while it ran'),
          now, 'poison', wid, envelope)
        buried = buried + 1
      else
        redis.call('HSET', MSG, id, envelope)
        -- A little later, each at another moment: workers that crash together
        -- do not take the same ones together again.
        redis.call('ZADD', SCHEDULED, now + (i * 37) % 500, id)
        returned = returned + 1
      end
    end
    redis.call('HDEL', PROCESSING, id)
  end
  if redis.call('HLEN', PROCESSING) == 0 then depart(wid) end
  if returned > 0 then count('reaped', returned) end
end
tidy()
close()
return {0, found, returned, buried, redis.call('SCARD', CORPSES), shortest}
