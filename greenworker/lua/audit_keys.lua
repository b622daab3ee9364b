-- audit_keys: a chunk of the namespace's keys, with their types. Reads only.
--
-- ARGV  cursor, count
-- Returns {next cursor, key without the root, type, key, type, ...}; '0' when that was all.
--         Of what is there by the thousand (results, pushes) only what has a wrong type.

local cursor, found = unpack(redis.call('SCAN', ARGV[1], 'MATCH', ROOT .. '*', 'COUNT', ARGV[2]))
local reply = {cursor}
for _, key in ipairs(found) do
  local name, kind = string.sub(key, #ROOT + 1), redis.call('TYPE', key).ok
  local many = string.find(name, '^result:') or string.find(name, '^push:')
  if kind ~= 'none' and not (many and kind == 'string') then
    reply[#reply + 1] = name
    reply[#reply + 1] = kind
  end
end
return reply
