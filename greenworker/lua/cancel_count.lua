-- cancel_count: how many messages a mark would cancel, of a chunk of them. Reads only.
--
-- ARGV  mark, cursor, how many to ask for
-- Returns {next cursor, '0' when that was all; bytes read, messages read, how many it would hit of what waits, and of what runs}.

local mark, cursor, count = ARGV[1], ARGV[2], ARGV[3]
require_type(MSG, 'hash')
local now, found = now_ms(), nil
marks = {[mark] = now}
cursor, found = unpack(redis.call('HSCAN', MSG, cursor, 'COUNT', count))
local bytes, hit, envelopes = 0, {}, {}
for i = 1, #found, 2 do
  bytes = bytes + #found[i + 1]
  if not envelopes[found[i]] and is_marked(found[i + 1], true) then
    hit[#hit + 1] = found[i]
    envelopes[found[i]] = found[i + 1]
  end
end
local holders, waits, runs = holders_of(hit), 0, 0
for _, id in ipairs(hit) do
  if not has_ended(envelopes[id], holders[id], now) then
    if holders[id] then runs = runs + 1 else waits = waits + 1 end
  end
end
return {cursor, bytes, #found / 2, waits, runs}
