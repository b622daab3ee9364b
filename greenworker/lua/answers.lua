-- answers: what workers have said they run. Reads only.
--
-- ARGV  the moment of the question in ms, most bytes, wids...
-- Returns what each of the first of them has said since, or '', as many as the bytes allow.

local asked, most, bytes, reply = tonumber(ARGV[1]), tonumber(ARGV[2]), 0, {}
for i = 3, #ARGV do
  -- pcall: one of a wrong type is no reason to hear nobody.
  local said = redis.pcall('GET', running_key(ARGV[i]))
  local moment, text = string.match(type(said) == 'string' and said or '', '^(%d+) (.*)$')
  if not moment or tonumber(moment) < asked then text = '' end
  bytes = bytes + #text
  if bytes > most and i > 3 then break end
  reply[#reply + 1] = text
end
return reply
