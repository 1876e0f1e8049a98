-- Remove a run, if it is still the opening's that was seen. Safe to send again.
--
-- KEYS[1] run      KEYS[2] index of runs
-- ARGV[1] name     ARGV[2] token of the opening that has it, or ''
--
-- Returns all fields and values of the run as it was, none where it is gone already, or nil where a trainer has opened it
-- meanwhile; then nothing was written.
local token = redis.call('HGET', KEYS[1], 'token') or ''
if token ~= '' and token ~= ARGV[2] then return false end
local was = redis.call('HGETALL', KEYS[1])
redis.call('DEL', KEYS[1])
redis.pcall('ZREM', KEYS[2], ARGV[1])
return was
