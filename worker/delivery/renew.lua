-- Renew leases that are still ours; a renewal is no delivery.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3], ARGV[4], ... entry id, delivery count of each lease
--
-- Returns the entry ids of the leases that were lost.
local lost = {}
for i = 3, #ARGV, 2 do
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if pending.err and string.sub(pending.err, 1, 7) ~= 'NOGROUP' then return pending end
  if pending.err or #pending == 0 or pending[1][2] ~= ARGV[2] or tostring(pending[1][4]) ~= ARGV[i + 1] then
    lost[#lost + 1] = ARGV[i]
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
end
return lost
