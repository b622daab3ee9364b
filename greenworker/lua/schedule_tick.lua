-- schedule_tick: what is due is sent and the schedule goes on to its next moment, in one step, by
-- whoever comes first.
--
-- ARGV  for each tick: name, when, due, next, at, and the message: id, queue, priority, expires, rest
--       due    as schedule_plan told it: the tick counts if that still holds, and its time has come
--       next   ms: when it is due after this. A plan that was on its way for long, over a pause, may
--              be for a moment that was sent meanwhile: that does not count
--       at     ms: the moment that the message stands for, not after now; '': send none
--       the message as for push; '' each where none is sent
-- Returns a letter for each: s sent, d not sent, since one like it is there, p only planned, - nothing (somebody else was first).
--
-- Where a queue's key is of a wrong type, its ticks stay due, and the error comes after all the others.
-- The first write is one that Redis refuses at maxmemory: then nothing moves, and the tick stays due.

local FIELDS = 10

require_type(SCHEDULES, 'hash')
local buried = require_sending()
require_type(MSG, 'hash')
require_type(SCHEDULED, 'zset')
-- (Not by the first of them that sends: one before it may have gone on already.)
require_type(QUEUES, 'set')
local now = now_ms()
local fates, sent, woken, refused = {}, 0, {}, nil
for i = 1, #ARGV, FIELDS do
  local name, when, due, next_due, at, id, queue, priority, expires, rest = unpack(ARGV, i, i + FIELDS - 1)
  local one, fate = read_schedule(name), '-'
  local list, first
  if at ~= '' then list, first = list_of(queue, priority, rest) end
  local wrong = list and (wrong_line(queue, priority, list, first) or wrong_lock(rest))
  if wrong then
    refused = wrong
  elseif one and one.when == when and one.paused == 0 and one.due == tonumber(due) and one.due <= now
    and tonumber(next_due) > one.last then
    fate = at == '' and 'p' or 's'
    one.due = tonumber(next_due)
    if at ~= '' then
      local how = send_once(id, queue, priority, now, expires, rest, now, buried, woken)
      if how == 'n' then sent = sent + 1 end
      -- What was not sent was not the last one.
      if how == 'd' then fate = 'd' else one.last = tonumber(at) end
    end
    write_schedule(name, one)
  end
  fates[#fates + 1] = fate
end
announce(sent, woken, now)
if refused then refuse(refused) end
return table.concat(fates)
