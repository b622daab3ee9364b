-- limit_list: the limits, as they are noted. Reads only.
--
-- Returns {pattern, '<d or s> <changed ms> <spec>', pattern, ...}

local LIMITS, reply = ROOT .. 'limits', {}
require_type(LIMITS, 'hash')
local found = redis.call('HGETALL', LIMITS)
for i = 1, #found, 2 do
  if found[i] ~= '#' and found[i] ~= '?' then
    reply[#reply + 1] = found[i]
    reply[#reply + 1] = found[i + 1]
  end
end
return reply
