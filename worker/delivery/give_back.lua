-- End leases that are still ours so that any worker may take their entries at once.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] idle time to set, ms   ARGV[4] deliveries to take back (0 or 1)
-- ARGV[5], ARGV[6], ... entry id, delivery count of each lease
--
-- Returns how many were given back.
local given = 0
for i = 5, #ARGV, 2 do
  local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[i], ARGV[i + 1])
  if not stop then
    local deliveries = tonumber(ARGV[i + 1]) - tonumber(ARGV[4])
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'IDLE', ARGV[3], 'RETRYCOUNT', deliveries, 'JUSTID')
    given = given + 1
  elseif stop ~= 'fenced' then
    return stop
  end
end
return given
