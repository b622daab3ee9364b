-- audit_confirm: where each of some ids is at this very moment. Reads only.
--
-- ARGV  work: how many entries of lists may be looked at; then for each id:
--       id, n, and n times: a place without the root, the index from the left at which a list had the id
-- Returns for each, until the work is used up: {1 if it is a message, its own list or '', place, place, ...}.
--         Its own list is the one that its envelope names, told unless it is in one place. For an id that
--         is nowhere else it is walked through: that takes 16 ms in a list of a million.

local work = tonumber(ARGV[1])
local CALL, NEAR = 50, 1000  -- a call costs as much as so many entries of a list
local names = {}

local function type_is(key, wanted) return redis.call('TYPE', key).ok == wanted end
local function short(key) return string.sub(key, #ROOT + 1) end

local holders = redis.call('ZRANGE', WORKERS, 0, -1)
for _, wid in ipairs(redis.call('SMEMBERS', CORPSES)) do holders[#holders + 1] = wid end
local held, is_held = {}, {}
for _, wid in ipairs(holders) do
  local key = processing_key(wid)
  is_held[key] = type_is(key, 'hash')
  if is_held[key] then held[#held + 1] = key end
end
local has_scheduled = type_is(SCHEDULED, 'zset')

-- How often an id is in a list, up to twice, at or behind an index: as long as it stays, pushes
-- move it to the right only. Or whether it is in a processing list that belongs to nobody.
local function count_in(key, id, index)
  if type_is(key, 'hash') and not is_held[key] then return redis.call('HEXISTS', key, id) end
  if not type_is(key, 'list') then return 0 end
  local behind = redis.call('LLEN', key) - index
  if behind <= 0 then return 0 end
  work = work - behind
  return #redis.call('LPOS', key, id, 'RANK', -1, 'COUNT', 2, 'MAXLEN', behind)
end

local function is_in(key, id)
  if not type_is(key, 'list') then return false end
  work = work - NEAR
  if redis.call('LPOS', key, id, 'RANK', -1, 'MAXLEN', NEAR) then return true end
  work = work - redis.call('LLEN', key)
  return redis.call('LPOS', key, id)
end

local reply, i = {}, 2
while ARGV[i] and (work > 0 or #reply == 0) do
  local id, n = ARGV[i], tonumber(ARGV[i + 1])
  local present = redis.call('HEXISTS', MSG, id)
  local found = {present, ''}
  work = work - CALL
  if present == 1 or n > 0 then
    if has_scheduled and redis.call('ZSCORE', SCHEDULED, id) then found[#found + 1] = 'scheduled' end
    for _, key in ipairs(held) do
      if redis.call('HEXISTS', key, id) == 1 then found[#found + 1] = short(key) end
    end
    work = work - #held * CALL
    for k = i + 2, i + n * 2, 2 do
      for _ = 1, count_in(ROOT .. ARGV[k], id, tonumber(ARGV[k + 1])) do found[#found + 1] = ARGV[k] end
    end
    if #found ~= 3 then
      local own = home(redis.call('HGET', MSG, id) or '')
      found[2] = own and short(own) or ''
      -- What nobody can read is promoted to this one.
      own = own or ready_key('default', 5)
      if #found == 2 and is_in(own, id) then found[3] = short(own) end
    end
  end
  reply[#reply + 1] = found
  i = i + 2 + n * 2
end
return reply
