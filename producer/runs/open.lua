-- Take a run from any trainer that has it, or begin it. Safe to send again after a lost reply: a token opens once.
--
-- KEYS[1] run      KEYS[2] index of runs
-- ARGV[1] name     ARGV[2] seconds to keep    ARGV[3] token of this opening    ARGV[4] who opens it
-- ARGV[5] what the ids of its batches begin with, if it is new   ARGV[6] the longest time that a run is kept
--
-- Returns who had it and had not closed it ('' if nobody), since when, when it was seen last, and then all fields and
-- values of the run.
local before = {'', '', ''}
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[3] then
  local was = redis.call('HMGET', KEYS[1], 'holder', 'taken_at', 'seen_at', 'closed_at')
  if was[1] and not was[4] then before = {was[1], was[2] or '', was[3] or ''} end
  redis.call('HINCRBY', KEYS[1], 'epoch', 1) -- refused for what is no number, before anything was written
end
local now = touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[3] then
  redis.call('HSET', KEYS[1], 'token', ARGV[3], 'holder', ARGV[4], 'taken_at', now)
  redis.call('HDEL', KEYS[1], 'closed_at', 'call')
  redis.call('HSETNX', KEYS[1], 'opened_at', now)
  redis.call('HSETNX', KEYS[1], 'stem', ARGV[5])
end
redis.pcall('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%d', math.floor(tonumber(now)) - tonumber(ARGV[6])))
return {before, redis.call('HGETALL', KEYS[1])}
