-- Stands behind lines.lua, before scripts that handle keys in any case.

need_keys()
local LIMITS, KNOWN, LATER, IDLE = keyed.LIMITS, keyed.KNOWN, keyed.LATER, keyed.IDLE
local NEVER, FOR_EVER, CLOSED, CIRCUIT = keyed.NEVER, keyed.FOR_EVER, keyed.CLOSED, keyed.CIRCUIT
local STOPPED, WINDOW, STATE, known_here = keyed.STOPPED, keyed.WINDOW, keyed.STATE, keyed.known_here
local limit_for, note_patterns = keyed.limit_for, keyed.note_patterns
local known, out, refusal, start, throttle = keyed.known, keyed.out, keyed.refusal, keyed.start, keyed.throttle
local note_end, memorable_until, close_keys = keyed.note_end, keyed.memorable_until, keyed.close_keys
local find_lines, held_key = keyed.find_lines, keyed.held_key
local look_again, find_pair, drop_empty = keyed.look_again, keyed.find_pair, keyed.drop_empty
local look_at_due, next_of_both = keyed.look_at_due, keyed.next_of_both
local forget_idle, clear_turns, give_back = keyed.forget_idle, keyed.clear_turns, keyed.give_back

-- After limits have changed, a pass looks at all keys, a chunk at a time: limits['?'] is where it goes on, and in which process
-- of the server, since in another one, after a restart or a failover, hashes are in another order, and it begins anew. True if
-- there is more to do.
local function look_on(now, count)
  local noted = redis.pcall('HGET', LIMITS, '?')
  if type(noted) ~= 'string' then return false end
  -- pcall: one that may not know where it is takes it for the same as before.
  local info = redis.pcall('INFO', 'server')
  local here = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '-'
  local cursor, where = string.match(noted, '^(%d+) (%S+)$')
  local scan = redis.pcall('HSCAN', KNOWN, where == here and cursor or '0', 'COUNT', count)
  if scan.err then return false end
  for i = 1, #scan[2], 2 do
    -- Parked somewhere: a look at the text is enough.
    local lines = select(12, string.match(scan[2][i + 1], STATE)) or ''
    if string.find(lines, 'p%d:') then look_again(known(scan[2][i]), now) end
  end
  local more = scan[1] ~= '0'
  if more then redis.call('HSET', LIMITS, '?', scan[1] .. ' ' .. here) else redis.call('HDEL', LIMITS, '?') end
  return more
end
