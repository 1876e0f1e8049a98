-- End the wait of all entries under one consumer: from now on they count as those of a dead worker, for anybody to take.
-- No delivery counts. Safe to send again.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer that entries wait under   ARGV[3] idle time of an ended lease, ms
-- ARGV[4] most entries that are looked at
--
-- Returns how many waits were ended.
local freed = 0
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[4], ARGV[2])) do
  if pending[3] < tonumber(ARGV[3]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1], 'IDLE', ARGV[3], 'JUSTID')
    freed = freed + 1
  end
end
return freed
