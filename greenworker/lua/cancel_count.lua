-- cancel_count: how many messages a mark would cancel, of a chunk of them. Reads only.
--
-- ARGV  mark, cursor, how many to ask for
-- Returns {next cursor, '0' when that was all; bytes read, messages read, how many it would hit of what waits, and of what runs}.

local mark, cursor, count = ARGV[1], ARGV[2], ARGV[3]
require_type(MSG, 'hash')
local now, found = now_ms(), nil
marks = {[mark] = now}
cursor, found = unpack(redis.call('HSCAN', MSG, cursor, 'COUNT', count))
local hit, envelopes, bytes = marked_among(found)
local holders, waits, runs = holders_of(hit), 0, 0
for _, id in ipairs(hit) do
  if not has_ended(envelopes[id], holders[id], now) then
    if holders[id] then runs = runs + 1 else waits = waits + 1 end
  end
end
return {cursor, bytes, #found / 2, waits, runs}
