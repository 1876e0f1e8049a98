-- Give the results of a turn their full time again. Safe to send again.
--
-- KEYS[1] ledger of the batch      KEYS[2] results stream of the batch      KEYS[3] routing of the batch
-- ARGV[1] content digest of the batch, as the session knows it      ARGV[2] seconds to keep
--
-- Returns 1; or 0 where there is no such batch, or one of other content: nothing was written then.
local digest = redis.pcall('HGET', KEYS[1], 'digest')
if digest ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'keep', ARGV[2])
for _, key in ipairs(KEYS) do
  -- Without a time to live it is not sealed yet, and the seal gives it this one.
  local left = redis.call('TTL', key)
  if left >= 0 and left < tonumber(ARGV[2]) then redis.call('EXPIRE', key, ARGV[2]) end
end
return 1
