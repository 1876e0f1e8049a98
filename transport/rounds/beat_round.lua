-- A party of a round says that it lives, and how far it is; it learns how the round is.
--
-- KEYS[1] round
-- ARGV[1] epoch   ARGV[2] field of its beat   ARGV[3] field of how far it is, or ''   ARGV[4] how far it is
--
-- Returns the milliseconds of Redis' clock and the round's fields. Of another round only those, nothing is written.
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] and redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 then
  redis.call('HSET', KEYS[1], ARGV[2], now)
  if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], ARGV[3], ARGV[4]) end
end
return { now, redis.call('HGETALL', KEYS[1]) }
