-- dead_ids: the next page of dead letters' ids, oldest first. Reads only.
--
-- ARGV  n, from ms, to ms (or -inf, +inf), died ms and id of the last one read ('', '': none yet)
-- Returns {died ms, id, died ms, id, ...}.
--
-- The last one read may have left meanwhile: the page begins at its place, not behind it.

local n, from, to, died, id = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]

-- As Redis orders the members of a score; Lua's own < follows the locale.
local function is_before(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return a < b end
  end
  return #one < #other
end

local first = redis.call('ZCOUNT', DEAD, '-inf', '(' .. from)
if died ~= '' then
  local low = redis.call('ZCOUNT', DEAD, '-inf', '(' .. died)
  local high = redis.call('ZCOUNT', DEAD, '-inf', died)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_before(id, redis.call('ZRANGE', DEAD, middle, middle)[1]) then
      high = middle
    else
      low = middle + 1
    end
  end
  first = low
end
local last = math.min(first + n, redis.call('ZCOUNT', DEAD, '-inf', to)) - 1
local reply, page = {}, {}
if first <= last then page = redis.call('ZRANGE', DEAD, first, last, 'WITHSCORES') end
for i = 1, #page, 2 do
  reply[i], reply[i + 1] = page[i + 1], page[i]
end
return reply
