-- Leave an entry to other workers: it waits under a consumer that is named for the policy version or the worker that it
-- waits for, and this delivery does not count. Only for the holder of the lease. Safe to send again after a lost reply.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] consumer that it waits under   ARGV[6] for how many ms of its lease it has waited already
--
-- Returns 'parked' or 'fenced' (nothing was written).
local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if stop then return stop end

redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[5], 0, ARGV[3], 'IDLE', ARGV[6], 'RETRYCOUNT', ARGV[4] - 1, 'JUSTID')
return 'parked'
