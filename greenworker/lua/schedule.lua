-- Stands before the scripts of schedules: what is known of one.

local SCHEDULES = ROOT .. 'schedules'

-- A schedule is a line in that hash, and the name of its task on another:
--     <due ms> <last ms> <since ms> <seen ms> <paused ms> <when>
-- due     the next tick stands for this moment; 0: that is still to be told
-- last    the last tick stood for this one
-- since   when the worker began whose word counts for `when`
-- seen    when a worker has declared it last, to some seconds
-- paused  since when it is, or 0
-- when    the text of its recurrence: only workers can say what is due after what
-- nil when there is no such line.
local function read_schedule(name)
  local line = redis.call('HGET', SCHEDULES, name) or ''
  local due, last, since, seen, paused, when, task =
    string.match(line, '^(%d+) (%d+) (%d+) (%d+) (%d+) ([^\n]*)\n(.*)$')
  if not due then return nil end
  return {due = tonumber(due), last = tonumber(last), since = tonumber(since), seen = tonumber(seen),
    paused = tonumber(paused), when = when, task = task}
end

local function write_schedule(name, one)
  local line = string.format('%.0f %.0f %.0f %.0f %.0f %s\n%s',
    one.due, one.last, one.since, one.seen, one.paused, one.when, one.task)
  redis.call('HSET', SCHEDULES, name, line)
end
