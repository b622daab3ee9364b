-- claim: up to n messages into this incarnation's processing list, by queue
-- order, then priority, then age.
--
-- In a queue and priority, what has a key and what has none take turns, and so do the keys (lines.lua).
--
-- ARGV  wid, seq, n, most bytes, queues...
--       n      or n/m, where it may hold m in all: what it has settled and we have not heard of yet counts as held
-- Returns {now ms, next due ms or -1, 1 if more is waiting, or 2 if nothing more is for this
--         worker until it has settled what it holds, lengths, text}: the text is id, envelope, id, envelope, …
--         and the lengths are theirs, with blanks between (two strings are read faster than two for each);
--         {'gone'} when wid is not registered (any more), {'stale'} when seq did not grow.
--
-- A claim takes at most its share of what waits in a queue, at least one, so that
-- a burst is spread over the workers that listen there; and nothing of a queue that is paused.

local function claim_from(queue, line)
  if line.suspects > 0 then
    pop_suspects(suspects_key(queue), n - #held / 2, beside[queue])
    -- (Those that are left although there is room run later, and whoever settles for it wakes somebody.)
    if #held / 2 >= n and redis.call('LLEN', suspects_key(queue)) > 0 then
      reply[3] = 1
      to_wake[queue] = true
    end
  end
  local waiting = line.waiting
  if waiting + line.keyed == 0 then return end
  local room = math.min(n - #held / 2, line.share)
  local taken, plain_room = 0, line.plain_share
  local function from(takes, ...)
    local before = #held
    takes(...)
    local more = (#held - before) / 2
    taken = taken + more
    if takes == pop then plain_room = plain_room - more end
  end
  for priority = 9, 0, -1 do
    local plain, with_keys = line[priority] > 0, line.keyed > 0 and redis.call('LLEN', turn_key(queue, priority)) > 0
    if plain and with_keys then
      -- Half of the room for each, and what one of them leaves is the other's. Of a room for one, by turns.
      local left = room - taken
      local half = seq % 2 == 0 and math.ceil(left / 2) or math.floor(left / 2)
      from(pop, queue, priority, math.min(half, plain_room))
      from(pop_in_turn, queue, priority, room - taken)
      from(pop, queue, priority, math.min(room - taken, plain_room))
    elseif with_keys then
      from(pop_in_turn, queue, priority, room - taken)
    elseif plain then
      from(pop, queue, priority, math.min(room - taken, plain_room))
    end
    if plain then waiting = waiting - line[priority] + redis.call('LLEN', ready_key(queue, priority)) end
    if line.keyed > 0 then waiting = waiting + redis.call('LLEN', turn_key(queue, priority)) end
  end
  if waiting > 0 then
    reply[3] = 1
    to_wake[queue] = true
  end
end

-- Where there are suspects, or keys.
local function claim_with_care()  -- seldom
  if are_keyed then
    need_keys()
    keyed.look_at_due(now, CHUNK)
  end
  if solitary or (are_suspects and makes_room_for_one()) then
    reply[3] = 2
    -- It may have taken tokens that are for others.
    for i = 5, #ARGV do
      if lines[i].waiting + lines[i].keyed > 0 then to_wake[ARGV[i]] = true end
    end
  else
    for i = 5, #ARGV do claim_from(ARGV[i], lines[i]) end
  end
end

-- Where there are none, as a rule.
local function claim_plain(queue, line)
  local room, waiting = math.min(n - #held / 2, line.share or 0), line.waiting
  for priority = 9, 0, -1 do
    if line[priority] > 0 then
      local before = #held
      pop(queue, priority, room)
      room = room - (#held - before) / 2
      waiting = waiting - line[priority] + redis.call('LLEN', ready_key(queue, priority))
    end
  end
  if waiting > 0 then
    reply[3] = 1
    to_wake[queue] = true
  end
end

if solitary or are_suspects or are_keyed then
  claim_with_care()
else
  for i = 5, #ARGV do
    if lines[i].waiting > 0 then claim_plain(ARGV[i], lines[i]) end
  end
end
if #held > 0 then redis.call('HSET', PROCESSING, unpack(held)) end
if are_keyed then
  -- As fast as keys come that are new.
  keyed.forget_idle(now, #held + 2)
  due = keyed.next_of_both()
end
if due then reply[2] = tonumber(due) end
reply[4], reply[5] = table.concat(lengths, ' '), table.concat(texts)
if keyed.known or next(line_counts) then close_lines(now) end
wake_all()
if next(counted) then close() end
return reply
