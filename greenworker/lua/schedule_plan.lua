-- schedule_plan: when the schedules of a worker are due. Notes that it declares them.
--
-- ARGV  since ms (when this worker began to ask; '': now), then for each schedule: name, when, task
-- Returns {now ms, due ms, due ms, ...}: 0 if that is to be told by a tick; -1 if it is not this worker's
--         business: paused, or another `when` counts.
--
-- Where workers differ about a schedule's time, as during a deploy, the one that began last is believed,
-- for as long as any worker still says the same.

local SEEN_EVERY, GONE_AFTER = 5000, 15000  -- ms
local FORGET_AFTER = 2592000000  -- ms: a month

require_type(SCHEDULES, 'hash')
redis.call('DEL', NIL)
local now = now_ms()
local since = ARGV[1] == '' and now or tonumber(ARGV[1])

local function due_of(name, when, task)
  local one = read_schedule(name)
  if not one then
    one = {due = 0, last = 0, since = since, seen = 0, paused = 0, when = when, task = task}
  elseif one.when ~= when then
    if since <= one.since and one.seen > now - GONE_AFTER then return -1 end
    -- What was due by the former one is nothing to catch up with.
    one.due, one.since, one.seen = 0, since, 0
  end
  if one.seen < now - SEEN_EVERY then
    one.seen, one.when, one.task = now, when, task
    write_schedule(name, one)
  end
  return one.paused > 0 and -1 or one.due
end

local reply = {now}
for i = 2, #ARGV, 3 do
  reply[#reply + 1] = due_of(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
-- A few at a time: what no worker has declared for long.
for _, name in ipairs(redis.call('HRANDFIELD', SCHEDULES, 5)) do
  local one = read_schedule(name)
  if not one or one.seen < now - FORGET_AFTER then redis.call('HDEL', SCHEDULES, name) end
end
return reply
