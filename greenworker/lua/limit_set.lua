-- limit_set: limits change, from the next claim on.
--
-- ARGV  d (an app's code declares them), s (somebody sets them) or x (as s, but what is there goes whatever it is), wid or '',
--       then pattern, spec, pattern, spec...
--       spec '' drops what somebody has set, or nobody declares any more: what code declares counts again.
--       With a wid these are all that this worker's code declares.
--       (nothing happens when wid is not registered, any more: nobody would ever forget what it declares)
-- Returns the patterns that have changed, or were dropped. Where one has a *, keys that it fits may be parked: call limit_look until it is
-- through.
--
-- What somebody has set is not overwritten by what the code declares: that lies underneath, in limits:under, until then.

local by, wid = ARGV[1], ARGV[2]
require_type(LIMITS, 'hash')
require_type(LIMITS_BY, 'hash')
require_type(LIMITS_UNDER, 'hash')
require_type(KNOWN, 'hash')
require_type(LATER, 'zset')
redis.call('DEL', NIL)
if wid ~= '' and not redis.call('ZSCORE', WORKERS, wid) then return {} end
local now = now_ms()

local changed, declared = {}, {}
for i = 3, #ARGV, 2 do
  local pattern, spec = ARGV[i], ARGV[i + 1]
  declared[#declared + 1] = pattern
  local line = redis.call('HGET', LIMITS, pattern)
  local who, before = string.match(line or '', '^(%a) %d+ (.*)$')
  if spec == '' then
    if line and (who ~= 'd' or by == 'x' or not declared_now()[pattern]) then
      redis.call('HDEL', LIMITS, pattern)
      uncover(pattern, now)
      changed[#changed + 1] = pattern
    end
  elseif by == 'd' and who == 's' then
    redis.call('HSET', LIMITS_UNDER, pattern, spec)
  else
    if by ~= 'd' and who == 'd' then
      redis.call('HSET', LIMITS_UNDER, pattern, before)
    elseif by == 'd' then
      redis.call('HDEL', LIMITS_UNDER, pattern)
    end
    if who ~= by or before ~= spec then
      redis.call('HSET', LIMITS, pattern, by .. string.format(' %.0f ', now) .. spec)
      if before ~= spec then changed[#changed + 1] = pattern end
    end
  end
end
if wid ~= '' then
  for _, pattern in ipairs(forget_declared(wid, table.concat(declared, ' '))) do changed[#changed + 1] = pattern end
end
if #changed == 0 then return changed end
note_patterns(changed)
for _, pattern in ipairs(changed) do
  -- (What goes whatever it is may be no key.)
  if by == 'x' or string.find(pattern, '*', 1, true) then
    redis.call('HSET', LIMITS, '?', '0')
  else
    look_again(known(pattern), now)
  end
end
close_lines(now)
wake_all()
return changed
