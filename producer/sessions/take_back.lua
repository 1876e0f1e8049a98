-- Take back a turn whose batch Redis refused, if no other turn came after it. Safe to send again: it is there once.
--
-- KEYS[1] session
-- ARGV[1] of:<batch id>   ARGV[2] number of the turn   ARGV[3] turn
--
-- Returns 1 if it was taken back, else 0: then it stays, as a turn that was never queued.
local told = redis.call('HMGET', KEYS[1], ARGV[1], 'turn:' .. ARGV[2], 'count', 'bytes')
if told[1] ~= ARGV[2] or told[2] ~= ARGV[3] then return 0 end
if tonumber(told[3]) ~= ARGV[2] + 1 then return 0 end
local bytes = tonumber(told[4]) or 0
redis.call('HDEL', KEYS[1], ARGV[1], 'turn:' .. ARGV[2])
redis.call('HSET', KEYS[1], 'count', ARGV[2], 'bytes', string.format('%d', math.max(0, bytes - #ARGV[3])))
return 1
