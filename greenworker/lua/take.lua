-- Stands before claim, behind survey.lua: how a message is taken out of where it waits.

local now = now_ms()
local reply, held = {now, -1, 0}, {}
local lengths, texts = {}, {}
local bytes, looked, full = 0, 0, false

-- A worker of an older version, to whom keys mean nothing, has put it among those without: it goes where it belongs. False
-- where it cannot: that costs the limit.
local function goes_to_line(id, envelope, queue)
  local _, of, _, first = home(envelope)
  if not first or of ~= queue or wrong_home(envelope) or mistyped(QUEUES, 'set') then return false end
  make_ready(id, envelope, false, now)
  return true
end

-- Whether it is not claimed, but has ended or moved. If it is, what it holds until it is started is given back.
local function ends_here(id, envelope, queue)  -- seldom
  if weeded(id, envelope, now, wid) then return true end
  local line = string.sub(envelope, 1, string.find(envelope, '\n', 1, true) or 0)
  if queue and string.find(line, ' keys=', 1, true) and goes_to_line(id, envelope, queue) then return true end
  if string.find(line, ' unique=', 1, true) then
    local lock, mode = lock_in(line)
    if lock and mode ~= 'd' then release_lock(id, lock) end
  end
  return false
end

-- What nothing is to be asked of, as nearly all is: ours, without an expires, a key or a lock. (Most are short, and then it is
-- quicker to look through all of it than to cut off the head.)
local function is_plain(id, envelope)
  return envelope and not marks and #envelope < 2000 and string.find(envelope, '^1 %d+ %d+ %d %d+ 0 %d+ %S+ ')
    and not string.find(envelope, ' keys=', 1, true) and not string.find(envelope, ' unique=', 1, true)
    and #id <= 64 and string.find(id, '^[%w_.:/@-]+$')
end

-- One popped id: claimed, or ended here. False when it no longer fits this claim. `envelope`: where it was read before.
-- `queue`: it was among those without a key there.
local function take(id, envelope, queue)
  looked = looked + 1
  if envelope == nil then envelope = redis.call('HGET', MSG, id) end
  if envelope then
    local size = math.min(#envelope, LARGEST)
    if bytes > 0 and bytes + size > most then return false end
    bytes = bytes + size
  end
  if not is_plain(id, envelope) and ends_here(id, envelope, queue) then return true end
  held[#held + 1] = id
  held[#held + 1] = seq
  local n = #texts
  texts[n + 1], texts[n + 2] = id, envelope
  lengths[n + 1], lengths[n + 2] = #id, #envelope
  return true
end

-- So many messages are read at once.
local portion = READ_FIRST
local function pop(queue, priority, room)
  local key = ready_key(queue, priority)
  while room > 0 and not full and looked < LOOK_AT_MOST do
    local ids = redis.call('RPOP', key, math.min(room, CHUNK))
    if not ids then return end
    local envelopes, first, last = nil, 1, 0
    for i, id in ipairs(ids) do
      if i > last then
        first, last = i, math.min(last + portion, #ids)
        envelopes = redis.call('HMGET', MSG, unpack(ids, first, last))
      end
      local before = #held
      if not take(id, envelopes[i - first + 1], queue) then
        -- Back in order, the oldest last pushed: it is the next one popped.
        for j = #ids, i, -1 do redis.call('RPUSH', key, ids[j]) end
        full = true
        break
      end
      if #held > before then room = room - 1 end
      -- Where those were small, as a rule the next ones are. (Not always: what is read in vain is bounded, too.)
      if i == last and bytes * 4 <= most then portion = READ_MOST end
    end
  end
end
