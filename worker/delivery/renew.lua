-- Renew leases that are still ours; a renewal is no delivery.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3], ARGV[4], ... entry id, delivery count of each lease
--
-- Returns the entry ids of the leases that were lost.
local lost = {}
for i = 3, #ARGV, 2 do
  local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[i], ARGV[i + 1])
  if not stop then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  elseif stop == 'fenced' then
    lost[#lost + 1] = ARGV[i]
  else
    return stop
  end
end
return lost
