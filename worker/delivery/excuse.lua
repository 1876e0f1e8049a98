-- Note in the ledger that a delivery ended although its worker lived. A ledger that expired is not made again: it would
-- never expire.
--
-- KEYS[1] ledger of the batch
-- ARGV[1] entry id   ARGV[2] delivery count   ARGV[3] consumer
--
-- Returns 1 when it was noted.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'lived:' .. ARGV[1] .. ':' .. ARGV[2], ARGV[3])
return 1
