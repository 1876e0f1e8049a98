-- Note that a batch is to be submitted, before any of its jobs is queued. Safe to send again after a lost reply.
--
-- KEYS[1] run      KEYS[2] index of runs
-- ARGV[1] name     ARGV[2] seconds to keep    ARGV[3] token of the opening
-- ARGV[4] outstanding:<batch id>   ARGV[5] settled:<batch id>   ARGV[6] intent   ARGV[7] number of the submit
--
-- Returns {'intended', intent}, or {'again', intent} where the batch is outstanding already, {'settled', ''} where it was
-- consumed or dropped, or what `taken` returns; in the last two cases nothing was written.
local other = taken(KEYS[1], ARGV[3])
if other then return other end
local is_settled = redis.call('HEXISTS', KEYS[1], ARGV[5]) == 1
if is_settled then return {'settled', ''} end
touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
local there = redis.call('HGET', KEYS[1], ARGV[4])
if there then return {there == ARGV[6] and 'intended' or 'again', there} end
redis.call('HINCRBY', KEYS[1], 'submitted', 1)
redis.call('HSET', KEYS[1], ARGV[4], ARGV[6])
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or '0') or 0
if tonumber(ARGV[7]) > last then redis.call('HSET', KEYS[1], 'last', ARGV[7]) end
return {'intended', ARGV[6]}
