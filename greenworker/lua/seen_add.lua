-- seen_add: a filter has seen these.
--
-- ARGV  push id, its ttl ms, the filter's name, marks...
-- Returns a letter for each: n new, s seen before; the same push id again answers the same and does nothing.
--
-- The first write is one that Redis refuses at maxmemory: then nothing is seen.

local PUSH, name = ROOT .. 'push:' .. ARGV[1], ARGV[3]

local before = redis.call('GET', PUSH)
if before then return before end
local marks = {unpack(ARGV, 4)}
require_type(SEEN, 'hash')
local filter = read_filter(name)
local has = look_for(filter, marks)
local splits = require_room(filter, #marks)

redis.call('SET', PUSH, '', 'PX', ARGV[2])
grow(filter, splits)
local fates = {}
for i, mark in ipairs(marks) do
  fates[i] = has[mark] and 's' or 'n'
  if not has[mark] then put_mark(filter, mark) end
  has[mark] = true
end
write_filter(name, filter)
local answer = table.concat(fates)
redis.call('SET', PUSH, answer, 'PX', ARGV[2])
return answer
