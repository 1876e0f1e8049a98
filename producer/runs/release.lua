-- A run has no use for a batch any more: its results have the usual time to live. Safe to send again.
--
-- KEYS[1] ledger of the batch      KEYS[2] results stream of the batch      KEYS[3] routing of the batch
-- ARGV[1] which run has consumed or dropped it, or '' where it was forgotten     ARGV[2] seconds to keep
--
-- Where there is no ledger, one is left for as long, which says only which run has dropped the batch: a trainer that has
-- lost the run, and froze before it queued the batch, does not queue it then. A ledger of another type stays as it is.
-- Returns whether there is such a batch.
local is_there = redis.call('EXISTS', KEYS[1]) == 1
if not is_there and ARGV[1] == '' then return 0 end
local done = redis.pcall('HDEL', KEYS[1], 'keep')
local is_other = type(done) == 'table' and string.find(done.err, 'WRONGTYPE', 1, true) ~= nil
if type(done) == 'table' and not is_other then return done end
if ARGV[1] ~= '' and not is_other then redis.call('HSET', KEYS[1], 'consumed', ARGV[1]) end
if not is_there then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
for at = is_other and 2 or 1, #KEYS do
  -- Without a time to live it is not sealed yet, and the seal gives it the usual one.
  if redis.call('TTL', KEYS[at]) > tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[at], ARGV[2]) end
end
return is_there and not is_other and 1 or 0
