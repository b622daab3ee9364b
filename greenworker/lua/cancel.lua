-- cancel: messages end before they have run, or their worker is told to end them (promote.lua).
--
-- ARGV  'dry' (look, change nothing) or '', ids...
-- Returns a letter for each of the first of them, as many as the bytes allow: c cancelled, it never runs; r it runs, and its worker is told; e it has ended before, however;
--         u unknown, or no message of ours.
--
-- Costs the same wherever a message waits: no list is walked through (call_off.lua).

local dry = ARGV[1] == 'dry'
require_type(MSG, 'hash')
require_type(SCHEDULED, 'zset')
for _, wid in ipairs(redis.call('ZRANGE', WORKERS, 0, -1)) do require_type(cancels_key(wid), 'hash') end
redis.call('DEL', NIL)

local now = now_ms()
local ids = {unpack(ARGV, 2)}
marks = are_marks() and read_marks() or {}
local holders, seen, reply, bytes = holders_of(ids), {}, {}, 0
for k, id in ipairs(ids) do
  if bytes > BUDGET then break end
  local envelope = not seen[id] and redis.call('HGET', MSG, id)
  local holder = holders[id]
  bytes = bytes + #(envelope or '')
  if not envelope then
    reply[k] = (seen[id] or redis.call('EXISTS', result_key(id)) == 1 or redis.call('HEXISTS', RECORDS, id) == 1) and 'e' or 'u'
  elseif not head(envelope) then
    reply[k] = 'u'
  elseif has_ended(envelope, holder, now) or (not holder and is_marked(envelope)) then
    reply[k] = 'e'
  else
    if not dry then call_off(id, envelope, holder) end
    reply[k] = holder and 'r' or 'c'
  end
  seen[id] = true
end
close()
return table.concat(reply)
