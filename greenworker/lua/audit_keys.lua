-- audit_keys: a chunk of the namespace's keys, with their types. Reads only.
--
-- ARGV  cursor, count
-- Returns {next cursor, key without the root, type, key, type, ...}; '0' when that was all.
--         Of what is there by the thousand (results, pushes, locks, sets of filters) only what has a wrong type.

local MANY = {result = 'string', push = 'string', unique = 'string', seen = 'set'}

local cursor, found = unpack(redis.call('SCAN', ARGV[1], 'MATCH', ROOT .. '*', 'COUNT', ARGV[2]))
local reply = {cursor}
for _, key in ipairs(found) do
  local name, kind = string.sub(key, #ROOT + 1), redis.call('TYPE', key).ok
  local wanted = MANY[string.match(name, '^(%a+):') or '']
  if kind ~= 'none' and (kind ~= wanted or name == 'seen:dropped') then
    reply[#reply + 1] = name
    reply[#reply + 1] = kind
  end
end
return reply
