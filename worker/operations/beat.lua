-- One beat of a worker: its report, and its place in the index of workers.
--
-- KEYS[1] report of the worker      KEYS[2] index of workers
-- ARGV[1] worker   ARGV[2] seconds that the report lives   ARGV[3] seconds that no report has left
-- ARGV[4], ARGV[5], ... field, value, ... of the report
--
-- Returns the unix seconds of Redis' clock.
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[2])

local time = redis.call('TIME')
local now = time[1] .. '.' .. string.format('%06d', time[2])
local placed = redis.pcall('ZADD', KEYS[2], now, ARGV[1])
if type(placed) == 'table' and placed.err then
  if not string.find(placed.err, 'WRONGTYPE', 1, true) then return placed end
  -- Something else wrote it: every worker that lives is in it again with its next beat.
  redis.call('DEL', KEYS[2])
  redis.call('ZADD', KEYS[2], now, ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.6f', time[1] - ARGV[3]))
redis.call('EXPIRE', KEYS[2], ARGV[3])
return now
