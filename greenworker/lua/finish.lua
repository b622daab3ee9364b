-- Stands before every script that ends messages: done, dead or expired, all end
-- here, so that whatever a message holds is given back in one place.

require_type(STATS, 'hash')
require_type(DEAD, 'zset')
require_type(RECORDS, 'hash')

local finished, counted = {}, {}
-- A ttl that Redis refuses would end a script in the middle: somebody's raw envelope may have one.
local LONGEST = 100 * 365 * 24 * 3600 * 1000
local DEAD_MOST, DEAD_FOR = 100000, 30 * 24 * 3600 * 1000

local function count(counter, by) counted[counter] = (counted[counter] or 0) + (by or 1) end

-- The message leaves; its result is kept for ttl ms and announced. ttl 0: no result.
local function finish(id, counter, ttl, result)
  ttl = math.min(ttl, LONGEST)
  finished[#finished + 1] = id
  count(counter)
  if ttl > 0 then
    redis.call('SET', result_key(id), result, 'PX', ttl)
    redis.call('PUBLISH', done_channel(id), result)
  end
end

-- finish as a dead letter, with what is needed to understand and to revive it.
-- Record: '<at ms> <reason> <wid or ->' \n error as JSON \n envelope.
local function bury(id, ttl, result, now, reason, wid, envelope)
  finish(id, 'dead', ttl, result)
  redis.call('ZADD', DEAD, now, id)
  redis.call('HSET', RECORDS, id, now .. ' ' .. reason .. ' ' .. wid .. '\n' .. result .. '\n' .. envelope)
  local old = redis.call('ZRANGEBYSCORE', DEAD, '-inf', now - DEAD_FOR, 'LIMIT', 0, 10)
  if #old == 0 and redis.call('ZCARD', DEAD) > DEAD_MOST then
    old = redis.call('ZRANGE', DEAD, 0, 0)
  end
  if #old > 0 then
    redis.call('ZREM', DEAD, unpack(old))
    redis.call('HDEL', RECORDS, unpack(old))
  end
end

-- Last call of the script: one HDEL and a few HINCRBY for all that was finished.
local function close()
  if #finished > 0 then redis.call('HDEL', MSG, unpack(finished)) end
  for counter, by in pairs(counted) do redis.call('HINCRBY', STATS, counter, by) end
end

local function failure(kind, message)
  return '{"state":"FAILURE","error":{"type":"' .. kind .. '","message":"' .. message .. '","traceback":""}}'
end
