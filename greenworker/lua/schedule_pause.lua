-- schedule_pause: schedules send nothing, or go on with their next moment after now.
--
-- ARGV  'pause' or 'resume', then for each: name, 'declared' (pause it, though no worker has told of it
--       yet) or ''
-- Returns a letter for each: y done, or as it was; n there is none.

require_type(SCHEDULES, 'hash')
redis.call('DEL', NIL)
local now, fates = now_ms(), {}
for i = 2, #ARGV, 2 do
  local one = read_schedule(ARGV[i])
  if not one and ARGV[i + 1] == 'declared' then
    one = {due = 0, last = 0, since = 0, seen = now, paused = 0, when = '', task = ''}
  end
  if one and ARGV[1] == 'pause' and one.paused == 0 then
    one.paused = now
    write_schedule(ARGV[i], one)
  elseif one and ARGV[1] == 'resume' and one.paused > 0 then
    -- What came and went meanwhile is nothing to catch up with.
    one.paused, one.due = 0, 0
    -- Sent by a clock that was wrong: nothing would come until it is that late.
    if one.last > now then one.last = 0 end
    write_schedule(ARGV[i], one)
  end
  fates[#fates + 1] = one and 'y' or 'n'
end
return table.concat(fates)
