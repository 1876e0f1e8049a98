-- Acknowledge a job if all of its groups have an answer, from any worker, or its batch has no ledger any more, so that
-- nobody reads them; only for the holder of the lease. Safe to send again after a lost reply.
--
-- KEYS[1] jobs stream      KEYS[2] ledger of the batch      KEYS[3] totals
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] first group      ARGV[6] groups of the job          ARGV[7] job, if it has some samples of its groups: then a
--                          group whose other samples are sampled elsewhere counts as answered too
--
-- Returns 'acknowledged', 'unanswered' (a group has none) or 'fenced' (the lease was lost, or the job is acknowledged);
-- nothing was written for the last two.
local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if stop then return stop end

local function is_kept(group)
  local share = ARGV[7] and redis.call('HGET', KEYS[2], 'share:' .. ARGV[7] .. ':' .. group)
  return share and string.sub(share, 1, 5) == 'kept|'
end

local has_ledger = redis.call('EXISTS', KEYS[2]) == 1
for number = ARGV[5], ARGV[5] + ARGV[6] - 1 do
  local group = string.format('%d', number)
  if has_ledger and redis.call('HEXISTS', KEYS[2], 'g:' .. group) == 0 and not is_kept(group) then return 'unanswered' end
end
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) == 1 then redis.pcall('HINCRBY', KEYS[3], 'jobs_acknowledged', 1) end
return 'acknowledged'
