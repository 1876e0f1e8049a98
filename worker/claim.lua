-- Take over entries whose lease ran out, with their delivery counts.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] idle time of an ended lease, ms   ARGV[4] cursor   ARGV[5] count
--
-- Returns {next cursor, {entry id, delivery count, {field, value, ...}}, ...}. An entry that is no longer in the stream
-- is acknowledged: nobody can ever answer it.
local reply = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], 'COUNT', ARGV[5], 'JUSTID')
local claimed = {reply[1]}
for _, id in ipairs(reply[2]) do
  local entry = redis.call('XRANGE', KEYS[1], id, id)
  if #entry == 0 then
    redis.call('XACK', KEYS[1], ARGV[1], id)
  else
    -- JUSTID counts no delivery, so it is counted here: one script knows the number that it wrote.
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)
    local deliveries = pending[1][4] + 1
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
    claimed[#claimed + 1] = {id, deliveries, entry[1][2]}
  end
end
return claimed
