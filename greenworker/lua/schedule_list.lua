-- schedule_list: a chunk of what is known of schedules. Reads only.
--
-- ARGV  cursor, count
-- Returns {next cursor, now ms, name, due, last, seen, paused, when, task, name, ...}; next cursor '0': that was all.

require_type(SCHEDULES, 'hash')
local cursor, found = unpack(redis.call('HSCAN', SCHEDULES, ARGV[1], 'COUNT', ARGV[2]))
local reply = {cursor, now_ms()}
for i = 1, #found, 2 do
  local one = read_schedule(found[i])
  if one then
    for _, value in ipairs({found[i], one.due, one.last, one.seen, one.paused, one.when, one.task}) do
      reply[#reply + 1] = value
    end
  end
end
return reply
