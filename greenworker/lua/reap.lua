-- reap: the deliveries of incarnations whose lease has run out come back.
--
-- ARGV  lease ms, longest quiet ms, n, max deliveries, incarnations whose process is proven gone...
-- Returns {extended, corpses found, messages returned, messages buried, corpses left,
--          the shortest lease ms of all, ids of those buried...}.
--
-- After a quiet time (pulse.lua) all leases are lengthened, and no lease is taken for over. Whoever
-- sweeps is told of the shortest one, to sweep as often as that asks for.
--
-- Blame: which of the messages killed the worker cannot be known. All are charged one delivery; from
-- the second on they are suspects, of which a worker runs a few at once, and if it dies only they
-- are charged. From the third on one runs without other suspects; if its worker dies, all are charged
-- again, since those beside it may be as guilty. From the fourth on one runs without anything else. Only
-- then, and charged max deliveries times as a suspect, it is buried. What was cancelled ends.
--
-- A sweep also tidies up: dead letters that nobody's burying pushes out, and queues that nobody uses
-- any more, lest names that were used once pile up, and what filters had seen that were dropped. And it heals what it
-- finds damaged of keys.

local lease, quiet, n, max = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
require_type(MSG, 'hash')
require_type(SCHEDULED, 'zset')
require_type(QUEUES, 'set')
require_type(ready_key('default', 5), 'list')
require_type(wake_key('default'), 'list')
redis.call('DEL', NIL)

local now = now_ms()
local found, last_sweep = 0, 0
local function declare_dead(wid)
  if redis.call('ZREM', WORKERS, wid) == 1 then
    redis.call('SADD', CORPSES, wid)
    found = found + 1
  end
end

local function exists(key) return redis.call('EXISTS', key) == 1 end

-- By existence, of whatever type: too late to refuse any.
local function is_used(queue)
  if exists(consumers_key(queue)) or exists(suspects_key(queue)) then return true end
  -- pcall: too late to refuse a key of a wrong type.
  if redis.pcall('HEXISTS', KEYED, queue) ~= 0 then return true end
  for priority = 0, 9 do
    if exists(ready_key(queue, priority)) or exists(turn_key(queue, priority)) then return true end
  end
end

local FORGET_MOST, CLEAR_MOST, TURNS_MOST, LOOK_AT_QUEUES = 100, 1000, 200, 50

local function tidy()
  forget_dead(now, FORGET_MOST)
  clear_dropped(CLEAR_MOST)
  heal(now, last_sweep)
  for _, queue in ipairs(redis.call('SRANDMEMBER', QUEUES, LOOK_AT_QUEUES)) do
    clear_turns(queue, TURNS_MOST)
    if not is_used(queue) then
      -- What is scheduled there makes it known again when it is due.
      redis.call('SREM', QUEUES, queue)
      redis.call('DEL', wake_key(queue))
    end
  end
end

for i = 5, #ARGV do declare_dead(ARGV[i]) end
-- pcall: too late to refuse a key of a wrong type.
last_sweep = tonumber(redis.pcall('GET', SWEEP) or 0) or 0
redis.call('SET', SWEEP, now)
local shortest = shortest_lease(lease)
if heard(now, lease, quiet) then
  return {1, found, 0, 0, redis.call('SCARD', CORPSES), shortest}
end

local expired = redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now, 'LIMIT', 0, 100)
for _, wid in ipairs(expired) do declare_dead(wid) end

local returned, buried = 0, {}
local wid = redis.call('SRANDMEMBER', CORPSES)
if wid then
  local PROCESSING = processing_key(wid)
  -- pcall: too late to refuse a key of a wrong type, and then it tells nothing.
  local suspects = redis.pcall('ZRANGE', suspected_key(wid), 0, -1)
  local solitary = redis.pcall('GET', solitary_key(wid))
  local suspected = {}
  for _, id in ipairs(suspects) do suspected[id] = true end
  -- As it was when the worker died: an earlier sweep may have returned it, charged.
  local charged = redis.call('HEXISTS', PROCESSING, suspects[1] or '') == 0 and 1 or 0
  local all_charged = #suspects == 0 or (#suspects == 1 and crashes_of(suspects[1]) - charged >= ALONE_AFTER)
  local held, bytes = some_of(wid, n), 0
  for i = 1, #held, 2 do
    if bytes > BUDGET then break end
    local id = held[i]
    local envelope = redis.call('HGET', MSG, id)
    local deliveries, _, _, _, _, ttl = head(envelope or '')
    deliveries = tonumber(deliveries)
    if deliveries then
      bytes = bytes + #envelope
      if suspected[id] or all_charged then
        deliveries = deliveries + 1
        envelope = string.gsub(envelope, '^1 %d+', '1 ' .. deliveries, 1)
      end
      give_back(id, now, keys_in(envelope))
      if was_cancelled(envelope) then
        finish(id, 'cancelled', tonumber(ttl), CANCELLED, (lock_in(envelope)))
      elseif solitary == id and deliveries >= SUSPECT_AFTER + max then
        bury(id, tonumber(ttl), failure('WorkerCrashed', 'the worker died ' .. deliveries .. ' times while it ran'),
          now, 'poison', wid, envelope)
        buried[#buried + 1] = id
      else
        redis.call('HSET', MSG, id, envelope)
        -- A little later, each at another moment: workers that crash together
        -- do not take the same ones together again.
        redis.call('ZADD', SCHEDULED, now + (i * 37) % 500 + CAME_BACK, id)
        returned = returned + 1
      end
    elseif envelope then
      make_ready(id, nil, false, now)
    end
    redis.call('HDEL', PROCESSING, id)
  end
  if returned > 0 then count('reaped', returned) end
  close()
  if redis.call('HLEN', PROCESSING) == 0 then depart(wid) end
end
tidy()
close_lines(now)
wake_all()
return {0, found, returned, #buried, redis.call('SCARD', CORPSES), shortest, unpack(buried)}
