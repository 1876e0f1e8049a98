-- A worker joins a round that is open.
--
-- KEYS[1] round
-- ARGV[1] epoch   ARGV[2] worker   ARGV[3] its ranks
--
-- Returns 1 if it is in, 0 if that round is not open.
local was = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if was[1] ~= ARGV[1] or was[2] ~= 'open' then return 0 end
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'ranks:' .. ARGV[2], ARGV[3], 'at:' .. ARGV[2], now, 'did:' .. ARGV[2], 'joined')
return 1
