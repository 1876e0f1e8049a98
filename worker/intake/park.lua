-- Leave an entry to workers that serve a newer policy version: it waits under a consumer named for that version, and
-- this delivery does not count. Only for the holder of the lease. Safe to send again after a lost reply.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] consumer that it waits under
--
-- Returns 'parked' or 'fenced' (nothing was written).
local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if stop then return stop end

redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[5], 0, ARGV[3], 'IDLE', 0, 'RETRYCOUNT', ARGV[4] - 1, 'JUSTID')
return 'parked'
