-- Stands before claim, behind take.lua: how messages of keys are taken, by turns.

-- A message was claimed: it holds a permit of each of its keys.
local function start_all(id, first, second)
  if first then keyed.start(keyed.known(first), id, now) end
  if second then keyed.start(keyed.known(second), id, now) end
end

-- From the lines of keys, one of each in turn, as long as there is room.
local function pop_in_turn(queue, priority, room)
  local turn, place = turn_key(queue, priority), priority .. ':' .. queue
  local others = redis.call('LLEN', turn)
  local passed  -- how many pairs went over to their other key

  -- The next of a line: true when it was claimed, false when it has ended, nil when there is none or it has no room.
  local function pop_next(list, first, second)
    local id = redis.pcall('RPOP', list)
    if type(id) ~= 'string' then return nil end
    local before = #held
    if not take(id) then
      redis.call('RPUSH', list, id)
      full = true
      return nil
    end
    count_line(queue, -1)
    if #held == before then return false end
    start_all(id, first, second)
    return true
  end

  -- Likewise of the next pair that waits at a key. Where its other key refuses, there it waits from now on: false. (If it
  -- cannot, that costs the limit.)
  local function pop_next_pair(list, key)
    local pair = redis.pcall('RPOP', list)
    if type(pair) ~= 'string' then return nil end
    looked = looked + 1
    local first, second = string.match(pair, '^([^,]+),([^,]+)$')
    if not first then return false end
    local is_second = key == second
    local other, noted = is_second and first or second, place .. ' ' .. pair
    if keyed.refusal(keyed.known(other), now) and keyed.wait_at(other, pair, queue, priority, now) then
      passed = passed + 1
      redis.pcall('HSET', PAIRS, noted, is_second and '1' or '2')
      return false
    end
    local ids = line_key(queue, priority, pair)
    local claimed = pop_next(ids, first, second)
    local left = redis.pcall('LLEN', ids)
    if type(left) == 'number' and left > 0 then
      -- Behind the others, once it has had its turn.
      redis.call(claimed and 'LPUSH' or 'RPUSH', list, pair)
    elseif left == 0 then
      redis.pcall('HDEL', PAIRS, noted)
    end
    if claimed == nil and not full then return false end  -- its line had been emptied
    return claimed
  end

  while room > 0 and not full and looked < LOOK_AT_MOST do
    local name = redis.call('RPOP', turn)
    if not name then return end
    others = others - 1
    local key, comma = string.match(name, '^([^,]*)(,?)')
    local at, are_pairs = place .. comma, comma == ','
    local one = keyed.known(key)
    local list, claimed = (are_pairs and pairs_key or line_key)(queue, priority, key), false
    if one.lines[at] ~= 't' then one.lines[at], one.changed = 't', true end  -- whatever was known of it
    looked, passed = looked + 1, 0
    local when = keyed.refusal(one, now)
    -- Who is alone takes as much as it may: there is nobody to take turns with.
    while not when and room > 0 and looked < LOOK_AT_MOST do
      if are_pairs then claimed = pop_next_pair(list, key) else claimed = pop_next(list, key) end
      if claimed then room = room - 1 end
      if claimed == nil then
        if not full then one.lines[at], one.changed = nil, true end
        break
      end
      when = keyed.refusal(one, now)
      if claimed and others > 0 then break end
      -- Two keys that refuse by turns would have their pairs go to and fro, as fast as anybody claims.
      if not when and passed >= PASS_MOST then when = now + PASS_PAUSE end
    end
    if one.lines[at] and not full and redis.pcall('LLEN', list) == 0 then
      one.lines[at], one.changed = nil, true
    elseif one.lines[at] and when then
      keyed.park(one, at, when)
    elseif one.lines[at] then
      -- Whom the bytes of this claim were not enough for is the next one.
      redis.call(full and 'RPUSH' or 'LPUSH', turn, name)
      others = others + 1
    end
  end
end
