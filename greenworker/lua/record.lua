-- Stands before every script that reads what is kept of dead letters (finish.lua writes it).

-- When it died: the moment in ms that its record begins with; 0 when that cannot be read.
local function died_at(record)
  local died = string.match(string.match(record, '^[^\n]*'), '^(%d+) %S+ %S+ %d+$')
  return died and #died <= 15 and tonumber(died) or 0
end

-- Where the envelope begins, or nil. By plain finds: patterns look at each byte, and take ten times as long.
local function envelope_at(record)
  local at = 0
  for _ = 1, 3 do
    at = string.find(record, '\n', at + 1, true)
    if not at then return nil end
  end
  return at + 1
end
