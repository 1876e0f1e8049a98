-- Open a round, unless another is under way whose trainer lives.
--
-- KEYS[1] round   KEYS[2] what it brings
-- ARGV[1] epoch   ARGV[2] what it brings   ARGV[3] milliseconds after which a silent party is dead   ARGV[4] TTL in s
--
-- Returns 1 if it is open now, also where it was opened by this call before; else 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local was = redis.call('HMGET', KEYS[1], 'epoch', 'phase', 'at')
if was[1] == ARGV[1] then return 1 end
if (was[2] == 'open' or was[2] == 'sending') and now - (tonumber(was[3]) or 0) < tonumber(ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'phase', 'open', 'at', string.format('%d', now))
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[4])
return 1
