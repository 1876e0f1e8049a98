-- Remove a run, if it is still as it was when its batches were released. Safe to send again.
--
-- KEYS[1] run      KEYS[2] index of runs
-- ARGV[1] name     ARGV[2] token of the opening that has it, or ''
--
-- Returns 1, or 0 where a trainer has opened it meanwhile.
local token = redis.call('HGET', KEYS[1], 'token') or ''
if token ~= '' and token ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.pcall('ZREM', KEYS[2], ARGV[1])
return 1
