-- limit_list: the limits, as they are noted. Reads only.
--
-- Returns {pattern, '<d or s> <changed ms> <spec>', what code declares beneath it: spec or '', pattern, ...}

local LIMITS, LIMITS_UNDER, reply, under = ROOT .. 'limits', ROOT .. 'limits:under', {}, {}
require_type(LIMITS, 'hash')
require_type(LIMITS_UNDER, 'hash')
local found = redis.call('HGETALL', LIMITS_UNDER)
for i = 1, #found, 2 do under[found[i]] = found[i + 1] end
found = redis.call('HGETALL', LIMITS)
for i = 1, #found, 2 do
  if found[i] ~= '#' and found[i] ~= '?' then
    reply[#reply + 1] = found[i]
    reply[#reply + 1] = found[i + 1]
    reply[#reply + 1] = under[found[i]] or ''
  end
end
return reply
