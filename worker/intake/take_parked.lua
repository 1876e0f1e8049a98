-- Take the oldest entry that waits under one consumer, with its delivery count.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] consumer that entries wait under
--
-- Returns {removed} or {removed, entry id, delivery count, {field, value, ...}}. An entry that is no longer in the stream
-- is acknowledged: no worker can ever answer it; `removed` says how many were, at most one in a call.
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[3])[1]
if not pending then return {0} end
local entry = redis.call('XRANGE', KEYS[1], pending[1], pending[1])
if #entry == 0 then
  redis.call('XACK', KEYS[1], ARGV[1], pending[1])
  return {1}
end
local deliveries = pending[4] + 1
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1], 'RETRYCOUNT', deliveries, 'JUSTID')
return {0, pending[1], deliveries, entry[1][2]}
