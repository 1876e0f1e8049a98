-- Remove a consumer that holds nothing. One with pending entries stays: removing it would lose them.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer
--
-- Returns 1 when it was removed.
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if pending.err then
  if string.sub(pending.err, 1, 7) == 'NOGROUP' then return 0 end
  return pending
end
if #pending > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
