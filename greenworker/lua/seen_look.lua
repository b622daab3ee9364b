-- seen_look: what a filter has seen. Reads only.
--
-- ARGV  the filter's name, marks...
-- Returns {how many it has seen, a letter for each mark: s seen, n not}.

require_type(SEEN, 'hash')
local filter = read_filter(ARGV[1])
local marks = {unpack(ARGV, 2)}
local has, fates = look_for(filter, marks), {}
for i, mark in ipairs(marks) do fates[i] = has[mark] and 's' or 'n' end
return {filter.count, table.concat(fates)}
