-- Stands before claim: what waits in a queue, and how much of it is for one worker.

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
