-- Stands before limit_set, listen, release and reap: limits that workers' code declares. They follow the code: each goes
-- with the last worker that declares it. What people set stands above them, in LIMITS; then they lie underneath.

local LIMITS_BY, LIMITS_UNDER = ROOT .. 'limits:by', ROOT .. 'limits:under'

-- What the code of any worker declares, as a set.
local function declared_now()
  local still, all = {}, redis.pcall('HVALS', LIMITS_BY)
  for _, patterns in ipairs(all.err and {} or all) do
    -- As a rule all workers declare the same.
    if not still[patterns] then
      still[patterns] = true
      for pattern in string.gmatch(patterns, '%S+') do still[pattern] = true end
    end
  end
  return still
end

-- Limits go that the code of a worker declared and does no more, nor that of any other worker. `now_said`: what it declares
-- instead; nil when the worker is no more. Returns the patterns that have gone.
local function forget_declared(wid, now_said)
  local said, gone = redis.pcall('HGET', LIMITS_BY, wid), {}
  if now_said then
    redis.call('HSET', LIMITS_BY, wid, now_said)
  elseif type(said) == 'string' then
    redis.call('HDEL', LIMITS_BY, wid)
  end
  if type(said) ~= 'string' or said == now_said then return gone end
  local still = declared_now()
  for pattern in string.gmatch(said, '%S+') do
    local line = not still[pattern] and redis.pcall('HGET', LIMITS, pattern)
    if not still[pattern] then redis.pcall('HDEL', LIMITS_UNDER, pattern) end
    if type(line) == 'string' and string.sub(line, 1, 1) == 'd' and redis.call('HDEL', LIMITS, pattern) == 1 then
      gone[#gone + 1] = pattern
    end
  end
  if #gone > 0 then
    note_patterns(gone)
    redis.call('HSET', LIMITS, '?', '0')
  end
  return gone
end

-- What people set has gone: what code declares by this pattern counts again, if any still does. Whether it is so.
local function uncover(pattern, now)
  local spec = redis.pcall('HGET', LIMITS_UNDER, pattern)
  if type(spec) ~= 'string' then return false end
  redis.call('HDEL', LIMITS_UNDER, pattern)
  -- (Its last worker may have been drained by one of an older version, which knows nothing of what lies underneath.)
  if not declared_now()[pattern] then return false end
  redis.call('HSET', LIMITS, pattern, 'd' .. string.format(' %.0f ', now) .. spec)
  return true
end
