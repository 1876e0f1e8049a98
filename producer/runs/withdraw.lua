-- Take back an intent whose batch Redis refused. Safe to send again: it is there once.
--
-- KEYS[1] run      KEYS[2] index of runs
-- ARGV[1] name     ARGV[2] seconds to keep    ARGV[3] token of the opening
-- ARGV[4] outstanding:<batch id>   ARGV[5] intent
--
-- Returns {'withdrawn'}, or what `taken` returns.
local other = taken(KEYS[1], ARGV[3])
if other then return other end
touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
if redis.call('HGET', KEYS[1], ARGV[4]) == ARGV[5] then
  redis.call('HDEL', KEYS[1], ARGV[4])
  redis.call('HINCRBY', KEYS[1], 'submitted', -1)
end
return {'withdrawn'}
