-- Stands before push_once and tick: what is sent unless one like it is there.

-- What one call may walk through of lists to find what is replaced, 16 ns an entry.
local WALK, walked = 100000, 0
local LONGEST_TTL = 100 * 365 * 24 * 3600 * 1000

-- The key for which nothing else is sent for so many ms: 'f<ms>.<name>'.
local function window_of(note)
  local ms, name = string.match(note, '^f(%d+)%.([%w_-]+)$')
  return name and ROOT .. 'unique:' .. name, ms
end

-- Why it cannot be told whether one like it is there; or nil.
local locks_wrong
local function wrong_lock(rest)
  local note = unique_in(rest)
  if not note then return nil end
  local window = window_of(note)
  if window then return mistyped(window, 'string') end
  if locks_wrong == nil then locks_wrong = wrong_locks() or false end
  return locks_wrong or nil
end

-- Who waits for what was replaced is told at once.
local function tell_replaced(id, ttl, by)
  ttl = math.min(tonumber(ttl), LONGEST_TTL)
  if ttl == 0 then return end
  local result = '{"state":"CANCELLED","replaced_by":"' .. by .. '"}'
  redis.call('SET', result_key(id), result, 'PX', ttl)
  redis.call('PUBLISH', done_channel(id), result)
end

-- What waits or is scheduled ends, since `by` comes instead. Returns the index in `list` that `by` is to take over, if
-- they are of the same list. What cannot be found there with little work stays, as a tombstone that the next claim
-- removes: nothing is ever taken out of the middle of a list.
local function replace(id, envelope, by, list)
  local deliveries, attempt, priority, sent, _, ttl, queue = head(envelope)
  local place
  if redis.call('ZREM', SCHEDULED, id) == 0 then
    if home(envelope) == list then
      local length = redis.call('LLEN', list)
      if walked + length <= WALK then
        walked = walked + length
        place = redis.call('LPOS', list, id) or nil
      end
    end
    if not place then
      local task = string.match(envelope, '^1 %d+ %d+ %d %d+ %d+ %d+ %S+ (%S+)') or '?'
      -- In whose line it lies it still tells.
      local keys = string.match(envelope, '^[^\n]-( keys=[^ \n]+)') or ''
      redis.call('HSET', MSG, id, table.concat({'1', deliveries, attempt, priority, sent, WAS_CANCELLED, ttl, queue, task,
        'replaced=' .. by}, ' ') .. keys .. '\n')
      tell_replaced(id, ttl, by)
      return nil
    end
  end
  redis.call('HDEL', MSG, id)
  redis.call('HINCRBY', STATS, 'replaced', 1)
  tell_replaced(id, ttl, by)
  return place
end

-- As send. Returns 'n' when it was sent, 'p' when its id is present, or 'd' and the id of the one that stands for it.
local function send_once(id, queue, priority, due, expires, rest, now, buried, woken)
  local note = unique_in(rest)
  if not note then
    return send(id, queue, priority, due, expires, rest, now, buried, woken) and 'n' or 'p'
  end
  local before, place = redis.call('HGET', MSG, id), nil
  if before and not makes_way(id, before) then return 'p' end
  local window, ms = window_of(note)
  local lock, mode = lock_in(rest)
  if window then
    -- By our clock, which a test may move; the key's own life only clears it away.
    local first, ends = string.match(redis.call('GET', window) or '', '^(%S+) (%d+)$')
    if first and now < tonumber(ends) then return 'd', first end
    redis.call('SET', window, id .. string.format(' %.0f', now + ms), 'PX', ms)
  elseif lock then
    local holder, envelope = holder_of(lock, now)
    if holder and mode ~= 'r' then return 'd', holder end
    -- (One that runs holds a lock only if it was sent when its task was declared in another way.)
    if holder and not (select(2, lock_in(envelope)) == 'd' and is_held(holder)) then
      -- First: a tick may begin here, and Redis refuses this at maxmemory (what `replace` begins with it does not).
      redis.call('HSET', UNIQUE, lock, id)
      place = replace(holder, envelope, id, due <= now and not before and (list_of(queue, priority, rest)) or nil)
    end
  end
  send(id, queue, priority, due, expires, rest, now, buried, woken, place)
  if lock then redis.call('HSET', UNIQUE, lock, id) end
  return 'n'
end
