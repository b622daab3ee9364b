-- Stands before push_once, reap and the scripts of filters: what a filter has seen.
--
-- A filter keeps a 63-bit hash, the mark, of each thing: a number in one of many small sets, which Redis keeps as sorted
-- arrays of 8 bytes an entry as long as a set has at most 512 (set-max-intset-entries). So there are as many sets as it
-- takes, one more for each 220 entries: linear hashing (Litwin 1980) by the upper bits of the mark. At `level` there are
-- 2^level sets, of which the first `split` have each become two of the next level: a set has 110 to 440 on average.
--
-- The hash `seen` tells of each filter '<gen> <level> <split> <count>', and under '#' the last gen. `seen:dropped` tells
-- of each gen that is being removed '<level> <split> <removed>'.

local SEEN, DROPPED = ROOT .. 'seen', ROOT .. 'seen:dropped'
local FULL = 220
local SPLIT_MOST = 8  -- a call; 1,000 marks take five
local SPAN = 2 ^ 63

-- (Lua writes a whole number below 10^14 as it is.)
local function shard_key(gen, level, n) return ROOT .. 'seen:' .. gen .. ':' .. level .. ':' .. n end

-- Which of so many sets a mark belongs to. Of its 63 bits a Lua number keeps the upper 53, rounded, the same way each time.
local function shard_at(mark, shards) return math.min(math.floor(tonumber(mark) / SPAN * shards), shards - 1) end

local function shard_of(filter, mark)
  local shards = 2 ^ filter.level
  local n = shard_at(mark, shards)
  if n >= filter.split then return shard_key(filter.gen, filter.level, n) end
  return shard_key(filter.gen, filter.level + 1, shard_at(mark, 2 * shards))
end

-- A filter; one that is not known is empty, and has no gen yet.
local function read_filter(name)
  local gen, level, split, count = string.match(redis.call('HGET', SEEN, name) or '', '^(%d+) (%d+) (%d+) (%d+)$')
  return {gen = tonumber(gen), level = tonumber(level or 0), split = tonumber(split or 0), count = tonumber(count or 0)}
end

local function write_filter(name, filter)
  redis.call('HSET', SEEN, name,
    string.format('%.0f %.0f %.0f %.0f', filter.gen, filter.level, filter.split, filter.count))
end

-- Which of some marks were seen, by mark.
local function look_for(filter, marks)
  local has = {}
  for _, mark in ipairs(marks) do
    if filter.gen then
      local key = shard_of(filter, mark)
      local found = redis.pcall('SISMEMBER', key, mark)
      if type(found) == 'table' then refuse(mistyped(key, 'set') or found.err) end
      has[mark] = found == 1
    end
  end
  return has
end

-- How many sets must be split for so many more entries; refused where one of them is no set.
local function require_room(filter, more)
  local level, split, splits = filter.level, filter.split, 0
  while splits < SPLIT_MOST and filter.count + more > FULL * (2 ^ level + split) do
    if filter.gen then
      require_type(shard_key(filter.gen, level, split), 'set')
      require_type(shard_key(filter.gen, level + 1, 2 * split), 'set')
      require_type(shard_key(filter.gen, level + 1, 2 * split + 1), 'set')
    end
    splits, split = splits + 1, split + 1
    if split == 2 ^ level then level, split = level + 1, 0 end
  end
  return splits
end

local function put_all(key, marks)
  for i = 1, #marks, 1000 do redis.call('SADD', key, unpack(marks, i, math.min(i + 999, #marks))) end
end

-- One set becomes two of the next level.
local function split_one(filter)
  local from, level = shard_key(filter.gen, filter.level, filter.split), filter.level + 1
  local shards, left, lower, upper = 2 ^ level, 2 * filter.split, {}, {}
  for _, mark in ipairs(redis.call('SMEMBERS', from)) do
    local into = shard_at(mark, shards) == left and lower or upper
    into[#into + 1] = mark
  end
  redis.call('DEL', from)
  put_all(shard_key(filter.gen, level, left), lower)
  put_all(shard_key(filter.gen, level, left + 1), upper)
  filter.split = filter.split + 1
  if filter.split == 2 ^ filter.level then filter.level, filter.split = level, 0 end
end

-- After the first write of a script: as many splits as require_room has said.
local function grow(filter, splits)
  if not filter.gen then filter.gen = redis.call('HINCRBY', SEEN, '#', 1) end
  for _ = 1, splits do split_one(filter) end
end

local function put_mark(filter, mark)
  filter.count = filter.count + redis.call('SADD', shard_of(filter, mark), mark)
end

-- Some of the sets of a filter that was dropped are removed. (pcall: a sweep passes over a key of a wrong type.)
local function clear_dropped(most)
  local found = redis.pcall('HRANDFIELD', DROPPED, 1, 'WITHVALUES')
  local gen, line = tonumber(found[1]), found[2] or ''
  local level, split, removed = string.match(line, '^(%d+) (%d+) (%d+)$')
  if not found[1] or found.err then return end
  if not gen or not level then return redis.call('HDEL', DROPPED, found[1]) end
  level, split, removed = tonumber(level), tonumber(split), tonumber(removed)
  local sets = 2 ^ level + split
  local last = math.min(removed + most, sets)
  for i = removed, last - 1 do
    local is_split = i < 2 * split
    redis.call('UNLINK', shard_key(gen, is_split and level + 1 or level, is_split and i or i - split))
  end
  if last == sets then return redis.call('HDEL', DROPPED, found[1]) end
  redis.call('HSET', DROPPED, found[1], string.format('%.0f %.0f %.0f', level, split, last))
end
