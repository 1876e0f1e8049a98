-- The trainer takes its round to the next phase.
--
-- KEYS[1] round
-- ARGV[1] epoch   ARGV[2] phase   ARGV[3] plan, or ''   ARGV[4] why, or ''
--
-- Returns 1 if the round has that phase now, 0 if it is another round, or one that is over.
local was = redis.call('HMGET', KEYS[1], 'epoch', 'phase')
if was[1] ~= ARGV[1] then return 0 end
if was[2] == ARGV[2] then return 1 end
if was[2] ~= 'open' and was[2] ~= 'sending' then return 0 end
redis.call('HSET', KEYS[1], 'phase', ARGV[2], 'plan', ARGV[3], 'why', ARGV[4])
return 1
