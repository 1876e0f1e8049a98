-- Keep a job that was given up on as a dead letter, only for the holder of the lease; acknowledge it when nobody is left to answer.
--
-- KEYS[1] jobs stream      KEYS[2] stream of dead letters
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] dead letter      ARGV[6] payload    ARGV[7] '1' to acknowledge the entry
--
-- Returns 'buried' or 'fenced' (nothing was written).
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if pending.err then
  if string.sub(pending.err, 1, 7) == 'NOGROUP' then return 'fenced' end
  return pending
end
if #pending == 0 or pending[1][2] ~= ARGV[2] or tostring(pending[1][4]) ~= ARGV[4] then return 'fenced' end

redis.call('XADD', KEYS[2], '*', 'letter', ARGV[5], 'payload', ARGV[6])
if ARGV[7] == '1' then redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) end
return 'buried'
