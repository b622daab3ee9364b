-- Stands before limits.lua: how fast a key may be that has no other way to know than to try.
--
-- (To come: for now, as fast as its limit says.)

local function interval_now(one) return one.allowed.interval end

-- ms between two starts that it has learnt, or 0.
local function learnt(one) return 0 end

local function slower(one, now) end

local function faster(one, took, now) end
