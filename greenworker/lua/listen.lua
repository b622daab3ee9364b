-- listen: an incarnation is one of those who claim from its queues, or (quiet, at a stop) is not for
-- the time being: then the others neither leave it a share, nor wait for it to make room for a suspect.
--
-- ARGV  wid, 1 or 0, queues...
-- Returns 1; 0 when wid is not registered (any more).

local wid, listens = ARGV[1], ARGV[2] == '1'
require_type(QUEUES, 'set')
for i = 3, #ARGV do
  require_type(consumers_key(ARGV[i]), 'set')
  require_type(wake_key(ARGV[i]), 'list')
end
redis.call('DEL', NIL)
if not redis.call('ZSCORE', WORKERS, wid) then return 0 end
for i = 3, #ARGV do
  if listens then
    redis.call('SADD', consumers_key(ARGV[i]), wid)
    redis.call('SADD', QUEUES, ARGV[i])
  else
    stop_listening(ARGV[i], wid)
  end
end
return 1
