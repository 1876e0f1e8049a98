-- Acknowledge a job if all of its groups have an answer, from any worker; only for the holder of the lease. Safe to
-- send again after a lost reply.
--
-- KEYS[1] jobs stream      KEYS[2] ledger of the batch      KEYS[3] totals
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] first group      ARGV[6] groups of the job
--
-- Returns 'acknowledged', 'unanswered' (a group has none) or 'fenced' (the lease was lost, or the job is acknowledged);
-- nothing was written for the last two.
local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if stop then return stop end

for group = ARGV[5], ARGV[5] + ARGV[6] - 1 do
  if redis.call('HEXISTS', KEYS[2], 'g:' .. string.format('%d', group)) == 0 then return 'unanswered' end
end
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) == 1 then redis.pcall('HINCRBY', KEYS[3], 'jobs_acknowledged', 1) end
return 'acknowledged'
