-- A run has no use for a batch any more: its results have the usual time to live. Safe to send again.
--
-- KEYS[1] ledger of the batch      KEYS[2] results stream of the batch
-- ARGV[1] which run has consumed or dropped it, or '' where it was forgotten     ARGV[2] seconds to keep
--
-- Returns whether there is such a batch.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if ARGV[1] ~= '' then redis.call('HSET', KEYS[1], 'consumed', ARGV[1]) end
redis.call('HDEL', KEYS[1], 'keep')
for _, key in ipairs(KEYS) do
  -- Without a time to live it is not sealed yet, and the seal gives it the usual one.
  if redis.call('TTL', key) > tonumber(ARGV[2]) then redis.call('EXPIRE', key, ARGV[2]) end
end
return 1
