-- Stands before every script that ends messages: done, dead or expired, all end
-- here, so that whatever a message holds is given back in one place.

require_type(STATS, 'hash')
-- (As a rule there are none.)
if redis.call('EXISTS', DEAD, RECORDS) > 0 then
  require_type(DEAD, 'zset')
  require_type(RECORDS, 'hash')
end

local finished, counted = {}, {}
-- A ttl that Redis refuses would end a script in the middle: somebody's raw envelope may have one.
local LONGEST = 100 * 365 * 24 * 3600 * 1000
local DEAD_MOST, DEAD_FOR = 100000, 30 * 24 * 3600 * 1000

local function count(counter, by) counted[counter] = (counted[counter] or 0) + (by or 1) end

-- The message leaves, and the lock that it may hold (lock_in of its envelope) is free; its result is kept for ttl ms
-- and announced. ttl 0: no result.
local function finish(id, counter, ttl, result, lock)
  ttl = math.min(ttl, LONGEST)
  finished[#finished + 1] = id
  count(counter)
  if lock and lock ~= '' then release_lock(id, lock) end
  if ttl > 0 then
    redis.call('SET', result_key(id), result, 'PX', ttl)
    redis.call('PUBLISH', done_channel(id), result)
  end
end

-- Dead letters that are too old, or too many, leave: the oldest first, at most so many a call.
local function forget_dead(now, most)
  local old = redis.call('ZRANGEBYSCORE', DEAD, '-inf', now - DEAD_FOR, 'LIMIT', 0, most)
  if #old == 0 then
    local over = math.min(redis.call('ZCARD', DEAD) - DEAD_MOST, most)
    if over > 0 then old = redis.call('ZRANGE', DEAD, 0, over - 1) end
  end
  if #old > 0 then
    redis.call('ZREM', DEAD, unpack(old))
    redis.call('HDEL', RECORDS, unpack(old))
  end
end

-- The name that an incarnation's worker goes by: it outlives the incarnation in its dead letters.
local names = {}
local function name_of(wid)
  if not names[wid] then
    -- pcall: too late to refuse a key of a wrong type, and text for people is not worth a refusal.
    local _, about = pcall(cjson.decode, redis.pcall('HGET', ABOUT, wid))
    local name = type(about) == 'table' and about.name
    names[wid] = type(name) == 'string' and string.gsub(name, '%c', '?') or '?'
  end
  return names[wid]
end

-- A send makes no envelope larger than this; of somebody's raw one, so much is kept.
local LARGEST, KEPT = 1024 * 1024 + 65536, 4096

-- finish as a dead letter, with what is needed to understand and to revive it.
-- Record: '<at ms> <reason> <wid> <bytes, when the envelope was cut, else 0>'
--         \n worker's name \n error as JSON \n envelope.
local function bury(id, ttl, result, now, reason, wid, envelope)
  finish(id, 'dead', ttl, result, (lock_in(envelope)))
  local cut = 0
  if #envelope > LARGEST then
    cut, envelope = #envelope, string.sub(envelope, 1, KEPT)
  end
  redis.call('ZADD', DEAD, now, id)
  redis.call('HSET', RECORDS, id, table.concat({now .. ' ' .. reason .. ' ' .. wid .. ' ' .. cut,
    name_of(wid), result, envelope}, '\n'))
  forget_dead(now, 10)
end

-- Last call of the script: one HDEL and a few HINCRBY for all that was finished.
local function close()
  if #finished > 0 then redis.call('HDEL', MSG, unpack(finished)) end
  for counter, by in pairs(counted) do redis.call('HINCRBY', STATS, counter, by) end
end

local function failure(kind, message)
  return '{"state":"FAILURE","error":{"type":"' .. kind .. '","message":"' .. message .. '","traceback":""}}'
end
