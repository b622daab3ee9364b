-- dead_delete: forgets dead letters. Their results, if any are left, live on.
--
-- ARGV  most bytes, then for each: id, when it died in ms, or '' for whenever it was
-- Returns a letter for each of the first of them, as many as the bytes allow:
--         d deleted, g gone (no such dead letter: it may have died again).

require_type(DEAD, 'zset')
require_type(RECORDS, 'hash')
redis.call('DEL', NIL)

local most, bytes, reply = tonumber(ARGV[1]), 0, {}
for i = 2, #ARGV, 2 do
  local id, died = ARGV[i], ARGV[i + 1]
  local is_it = true
  if died ~= '' then
    bytes = bytes + redis.call('HSTRLEN', RECORDS, id)
    if bytes > most and i > 2 then break end
    local record = redis.call('HGET', RECORDS, id)
    is_it = not record or died_at(record) == tonumber(died)
  end
  -- A half of one leaves as well.
  if is_it then redis.call('ZREM', DEAD, id) end
  reply[#reply + 1] = is_it and redis.call('HDEL', RECORDS, id) == 1 and 'd' or 'g'
end
return table.concat(reply)
