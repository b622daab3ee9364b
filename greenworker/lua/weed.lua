-- Stands before every script that takes ids out of where they wait: what of them can be nobody's to run
-- ends here.

local EXPIRED = '{"state":"EXPIRED"}'

-- A popped id and its envelope, or false for none. True when it has ended here: it is not ours, cannot be
-- read, was cancelled or replaced, or has expired. `wid`: who met it.
local function weeded(id, envelope, now, wid)
  -- A second copy of what has ended as a dead letter: that tells more.
  if not envelope and redis.call('HEXISTS', RECORDS, id) == 1 then return true end
  local name = #id <= 64 and string.match(id, '^[%w_.:/@-]+$')
  if not envelope or not name then
    -- Ids are pushed by our scripts only: anything else in a list is not ours.
    count('foreign')
    if envelope then redis.call('HDEL', MSG, id) end
    -- Under its own name only if it can be one: else the name may be what people keep private.
    name = name or 'foreign:' .. redis.sha1hex(id)
    bury(name, 0, failure('MalformedMessage', 'an entry that no push made'), now, 'malformed', wid, envelope or id)
    return true
  end
  local _, _, _, _, expires, ttl = head(envelope)
  if not expires or #envelope > LARGEST then
    count('foreign')
    local version = string.match(envelope, '^(%d+) ')
    local what = 'not an envelope'
    if expires then
      what = 'an envelope of ' .. #envelope .. ' bytes, the limit is ' .. LARGEST
    elseif version and version ~= '1' then
      what = 'an envelope of an unknown version'
    end
    bury(id, 3600000, failure('MalformedMessage', what), now, 'malformed', wid, envelope)
    return true
  end
  if expires == WAS_CANCELLED or (marks and is_marked(envelope)) then
    if was_replaced(envelope) then
      finish(id, 'replaced', 0, '')
    else
      finish(id, 'cancelled', tonumber(ttl), CANCELLED, (lock_in(envelope)))
    end
    return true
  end
  if expires ~= '0' and tonumber(expires) <= now then
    finish(id, 'expired', tonumber(ttl), EXPIRED, (lock_in(envelope)))
    return true
  end
  return false
end
