-- Stands before claim: whose claim it is, what waits, and how much of it is for one worker. All of this is looked at before
-- anything is popped: what is of a wrong type is refused here.

local wid, seq, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local n, may_hold = string.match(ARGV[3], '^(%d+)/?(%d*)$')
local PROCESSING, SUSPECTED, SOLITARY = processing_key(wid), suspected_key(wid), solitary_key(wid)
local LOOK_AT_MOST, CHUNK, READ_FIRST, READ_MOST = 1000, 200, 16, 64
-- ms: for so long a worker claims nothing else for the sake of a suspect, before and while it runs; and how long
-- it is known that it was not enough.
local PATIENCE, IMPATIENCE = 60000, 600000
-- So many pairs go over from one key to their others at a time, and then none for so many ms.
local PASS_MOST, PASS_PAUSE = 500, 50

-- What a worker may take of a queue, whether it is the first of those who listen there, and what it may take of what has
-- no key: of what has one, much may wait that cannot run now, and the rest is to be spread all the same.
local SPREAD_OVER = 64
local function share(queue, waiting, plain, wid)
  local consumers = redis.call('SMEMBERS', consumers_key(queue))
  local listens, first = false, true
  for _, other in ipairs(consumers) do
    listens = listens or other == wid
    first = first and wid <= other
  end
  first = listens and first
  if #consumers < 2 then return waiting, first, plain end
  local part, part_of_plain = math.ceil(waiting / #consumers), math.ceil(plain / #consumers)
  if #consumers > SPREAD_OVER then return part, first, part_of_plain end
  -- Even out what is held, too: the first claim of a burst takes its half, and
  -- the second one takes the other half, not a quarter.
  local all = 0
  for _, other in ipairs(consumers) do all = all + redis.call('HLEN', processing_key(other)) end
  local own = redis.call('HLEN', processing_key(wid))
  local function even(n) return math.ceil((n + all) / #consumers) - own end
  return math.max(part, even(waiting), 1), first, math.max(part_of_plain, even(plain), 1)
end

-- How many wait in a queue, of each priority and of suspects. Most often nothing does, or what has the usual priority.
local LISTS = {5, 9, 8, 7, 6, 4, 3, 2, 1, 0, 'suspects'}
local function count_waiting(queue, line)
  local keys = {}
  for n, list in ipairs(LISTS) do keys[n] = list == 'suspects' and suspects_key(queue) or ready_key(queue, list) end
  local left = redis.call('EXISTS', unpack(keys))
  for n, list in ipairs(LISTS) do
    line[list] = left > 0 and redis.call('LLEN', keys[n]) or 0
    if line[list] > 0 then left = left - 1 end
    if list ~= 'suspects' then line.waiting = line.waiting + line[list] end
  end
end

require_type(MSG, 'hash')
local holding = read('hash', 'HLEN', PROCESSING)
local holds_any = holding > 0
n = math.max(0, math.min(tonumber(n), (tonumber(may_hold) or math.huge) - holding))
local solitary = read('string', 'GET', SOLITARY)
local suspected_since = read('zset', 'ZRANGE', SUSPECTED, 0, 0, 'WITHSCORES')[2]

local lines = {}
local in_lines = redis.pcall('HMGET', KEYED, unpack(ARGV, 5))
if in_lines.err then refuse(KEYED .. ' is not a hash') end
local are_keyed, are_suspects = false, false
local paused = read('set', 'SMISMEMBER', PAUSED, MARKED, unpack(ARGV, 5))
if paused[1] == 1 then
  require_type(MARKS, 'hash')
  marks = read_marks()
end
for i = 5, #ARGV do
  local queue = ARGV[i]
  local line = {waiting = 0, suspects = 0, keyed = 0}
  -- A paused queue is as one where nothing waits.
  if paused[i - 3] == 0 then
    count_waiting(queue, line)
    -- (What is no number is somebody's: there may be lines.)
    line.keyed = in_lines[i - 4] and (tonumber(string.match(in_lines[i - 4], '^%d+$')) or 1) or 0
    if line.keyed > 0 then
      are_keyed = true
      for priority = 9, 0, -1 do require_type(turn_key(queue, priority), 'list') end
    end
  end
  if line.waiting + line.keyed + line.suspects > 0 then
    tokens[queue] = read('list', 'LLEN', wake_key(queue))
    if line.suspects > 0 then
      are_suspects = true
      require_type(room_key(queue), 'string')
    end
    line.share, line.first, line.plain_share = share(queue, line.waiting + line.keyed, line.waiting, wid)
  end
  lines[i] = line
end
local due = redis.call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]

redis.call('DEL', NIL)
if not redis.call('ZSCORE', WORKERS, wid) then return {'gone'} end
if seq <= (tonumber(redis.call('HGET', SEQ, wid) or 0) or 0) then return {'stale'} end
redis.call('HSET', SEQ, wid, seq)
