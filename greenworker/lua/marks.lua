-- Stands before every script that asks whether a mark cancels a message.
--
-- marks: HASH mark -> '<ms> <pass>'. A mark is task:<name> or tag:<tag>, and cancels what was sent until that
-- moment, wherever it is; it leaves when the pass of that number has been through all messages (cancel_comb.lua).
-- While there is any, `paused` holds a word that is no queue's name: claims learn of marks with what they read anyway.

local MARKED = '*'
local marks  -- mark -> ms, once they were read

local function are_marks() return redis.call('SISMEMBER', PAUSED, MARKED) == 1 end

local function read_marks()  -- seldom
  local read, found = {}, redis.call('HGETALL', MARKS)
  for i = 1, #found, 2 do
    local moment = string.match(found[i + 1], '^(%d+) %d+$')
    if moment then read[found[i]] = tonumber(moment) end
  end
  return read
end

-- Where it is too late to refuse a key of a wrong type: there are none then.
local function marks_if_told()
  local told = redis.pcall('SISMEMBER', PAUSED, MARKED) == 1 and not mistyped(MARKS, 'hash')
  return told and read_marks() or {}
end

-- Whether one of the marks that were read cancels a message. Not what had expired before, unless it runs: `if_held`.
local function is_marked(envelope, if_held)
  local sent, expires, task, options =
    string.match(envelope, '^1 %d+ %d+ %d (%d+) (%d+) %d+ %S+ ([^ \n]+)([^\n]*)')
  if not sent or expires == WAS_CANCELLED then return false end
  sent, expires = tonumber(sent), expires == '0' and math.huge or tonumber(expires)
  local function hits(mark) return marks[mark] and sent <= marks[mark] and (if_held or marks[mark] < expires) end
  if hits('task:' .. task) then return true end
  for tag in string.gmatch((string.match(options, ' tags=([^ ]+)') or '') .. '%2C', '(.-)%%2C') do
    if hits('tag:' .. tag) then return true end
  end
  return false
end

-- Of what a scan of messages has shown: the ids that a mark cancels (whether one that has expired runs, the caller knows),
-- the envelope of each, and the bytes of all.
local function marked_among(found)
  local hit, envelopes, bytes = {}, {}, 0
  for i = 1, #found, 2 do
    local id, envelope = found[i], found[i + 1]
    bytes = bytes + #envelope
    -- A scan may show a field twice.
    if not envelopes[id] and is_marked(envelope, true) then
      hit[#hit + 1] = id
      envelopes[id] = envelope
    end
  end
  return hit, envelopes, bytes
end

-- Whether a message was cancelled, by itself or by a mark.
local function is_called_off(envelope)
  if marks == nil then marks = marks_if_told() end
  return was_cancelled(envelope) or is_marked(envelope)
end
