-- limit_set: limits change, from the next claim on.
--
-- ARGV  d (an app's code declares them) or s (somebody sets them), wid or '', then pattern, spec, pattern, spec...
--       spec '' drops the limit. With a wid these are all that this worker's code declares.
--       (nothing happens when wid is not registered, any more: nobody would ever forget what it declares)
-- Returns the patterns that have changed. Where one has a *, keys that it fits may be parked: call limit_look until it is
-- through.
--
-- What somebody has set is not overwritten by what the code declares.

local by, wid = ARGV[1], ARGV[2]
require_type(LIMITS, 'hash')
require_type(LIMITS_BY, 'hash')
require_type(KNOWN, 'hash')
require_type(LATER, 'zset')
redis.call('DEL', NIL)
if wid ~= '' and not redis.call('ZSCORE', WORKERS, wid) then return {} end
local now = now_ms()

local changed, declared = {}, {}
for i = 3, #ARGV, 2 do
  local pattern, spec = ARGV[i], ARGV[i + 1]
  declared[#declared + 1] = pattern
  local who, before = string.match(redis.call('HGET', LIMITS, pattern) or '', '^(%a) %d+ (.*)$')
  if spec == '' then
    if redis.call('HDEL', LIMITS, pattern) == 1 then changed[#changed + 1] = pattern end
  elseif not (by == 'd' and who == 's') and (who ~= by or before ~= spec) then
    redis.call('HSET', LIMITS, pattern, by .. string.format(' %.0f ', now) .. spec)
    if before ~= spec then changed[#changed + 1] = pattern end
  end
end
if wid ~= '' then
  for _, pattern in ipairs(forget_declared(wid, table.concat(declared, ' '))) do changed[#changed + 1] = pattern end
end
if #changed == 0 then return changed end
note_patterns(changed)
for _, pattern in ipairs(changed) do
  if string.find(pattern, '*', 1, true) then
    redis.call('HSET', LIMITS, '?', '0')
  else
    look_again(known(pattern), now)
  end
end
close_lines(now)
wake_all()
return changed
