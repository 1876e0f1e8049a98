-- Count the bytes of parts right: take off batches whose parts have expired, and add up what is left.
--
-- KEYS[1] bytes of parts      KEYS[2], KEYS[3], ... parts of each batch
-- ARGV[1] the most batches that are added up      ARGV[2], ARGV[3], ... the batches
--
-- Returns how many were taken off.
local gone = 0
for i = 2, #ARGV do
  if redis.call('EXISTS', KEYS[i]) == 0 and redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    count_parts(KEYS[i], KEYS[1], ARGV[i], 0)
    gone = gone + 1
  end
end
if redis.call('HLEN', KEYS[1]) <= tonumber(ARGV[1]) then
  local total, flat = 0, redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do
    local counted = tonumber(flat[i + 1])
    if flat[i] ~= '*' and counted and counted > 0 and counted < 2 ^ 53 then total = total + counted end
  end
  if #flat > 2 then redis.call('HSET', KEYS[1], '*', string.format('%.0f', total)) end
  if #flat == 2 and flat[1] == '*' then redis.call('DEL', KEYS[1]) end
end
return gone
