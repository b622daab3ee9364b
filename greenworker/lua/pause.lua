-- pause: from the next claim on, workers claim nothing from these queues; or they do again.
--
-- ARGV  1 or 0, queues...
-- Returns for each: 1, or 0 when it was so before; and 1, or 0 when nobody has used it yet.
--
-- A paused queue has no wake token: nobody is woken for what cannot be claimed (prelude.lua, wake).

local pauses = ARGV[1] == '1'
require_type(PAUSED, 'set')
require_type(QUEUES, 'set')
for i = 2, #ARGV do require_type(wake_key(ARGV[i]), 'list') end
redis.call('DEL', NIL)

local function waits(queue)
  -- By existence, of whatever type: too late to refuse any.
  if redis.call('EXISTS', suspects_key(queue)) == 1 then return true end
  for priority = 0, 9 do
    if redis.call('EXISTS', ready_key(queue, priority), turn_key(queue, priority)) > 0 then return true end
  end
end

local reply = {}
for i = 2, #ARGV do
  local queue = ARGV[i]
  reply[#reply + 1] = redis.call(pauses and 'SADD' or 'SREM', PAUSED, queue)
  local known = redis.call('SISMEMBER', QUEUES, queue) == 1 or redis.call('EXISTS', consumers_key(queue)) == 1
  reply[#reply + 1] = known and 1 or 0
  if pauses then
    -- Nor does anybody wait there for a worker that holds nothing.
    redis.call('DEL', wake_key(queue), room_key(queue))
  elseif waits(queue) then
    wake(queue)
  end
end
return reply
