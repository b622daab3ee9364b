-- push_once: as push, for messages of which one may be there already, and for a filter of what was seen.
--
-- ARGV  push id, its ttl ms, the filter's name or '', then for each message:
--       id, queue, priority, due, expires, rest, mark
--       mark   what the filter knows it by, or ''; the others as for push. What is unique is noted in the head
-- Returns a letter for each, and behind a blank each the ids for the letters d, in order:
--         n new, p this id is present, d one like it is there, s seen before;
--         the same push id again answers the same and does nothing.
--
-- What is not pushed is not marked as seen: both happen here, or neither.
-- The first write is one that Redis refuses at maxmemory: then nothing is sent.

local PUSH, scope = ROOT .. 'push:' .. ARGV[1], ARGV[3]
local FIELDS, FIRST = 7, 4

local before = redis.call('GET', PUSH)
if before then return before end
local buried = require_sending()
require_type(MSG, 'hash')
require_type(SCHEDULED, 'zset')
local marks = {}
for i = FIRST, #ARGV, FIELDS do
  local list, first = list_of(ARGV[i + 1], ARGV[i + 2], ARGV[i + 5])
  local wrong = wrong_line(ARGV[i + 1], ARGV[i + 2], list, first) or wrong_lock(ARGV[i + 5])
  if wrong then refuse(wrong) end
  if ARGV[i + 6] ~= '' then marks[#marks + 1] = ARGV[i + 6] end
end
local filter, has, splits
if scope ~= '' then
  require_type(SEEN, 'hash')
  filter = read_filter(scope)
  has = look_for(filter, marks)
  splits = require_room(filter, #marks)
end

redis.call('SET', PUSH, '1', 'PX', ARGV[2])
local now, woken = now_ms(), {}
local fates, firsts, added = {}, {}, 0
if filter then grow(filter, splits) end
for i = FIRST, #ARGV, FIELDS do
  local id, due, mark = ARGV[i], ARGV[i + 3], ARGV[i + 6]
  if due ~= '' then due = moment(due, now) else due = now end
  local fate, first = 's', nil
  if mark == '' or not has[mark] then
    fate, first = send_once(id, ARGV[i + 1], ARGV[i + 2], due, ARGV[i + 4], ARGV[i + 5], now, buried, woken)
  end
  if fate == 'n' then
    added = added + 1
    if mark ~= '' then
      put_mark(filter, mark)
      has[mark] = true
    end
  end
  fates[#fates + 1] = fate
  firsts[#firsts + 1] = first
end
announce(added, woken, now)
if filter then write_filter(scope, filter) end
local answer = table.concat(fates) .. ' ' .. table.concat(firsts, ' ')
redis.call('SET', PUSH, answer, 'PX', ARGV[2])
return answer
