-- dead_records: what is kept of dead letters. Reads only.
--
-- ARGV  'whole', or 'front': no more of the envelope than its first line; most bytes, ids...
-- Returns the record of each, or nil; of the first of them only, as many as the bytes allow.

-- A head is a few hundred bytes; what has no line of its own may be a megabyte.
local LONGEST_LINE = 4096

local most, bytes, reply = tonumber(ARGV[2]), 0, {}
for i = 3, #ARGV do
  bytes = bytes + redis.call('HSTRLEN', RECORDS, ARGV[i])
  if bytes > most and i > 3 then break end
  local record = redis.call('HGET', RECORDS, ARGV[i])
  if record and ARGV[1] == 'front' then
    local from = envelope_at(record) or 1
    local to = string.find(record, '\n', from, true) or #record + 1
    record = string.sub(record, 1, math.min(to - 1, from + LONGEST_LINE - 1))
  end
  reply[#reply + 1] = record
end
return reply
