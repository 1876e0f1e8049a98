-- Keep chunks of the routing of a group's completions, before its answer is published: who reads the answer finds all of
-- it. Only for the holder of the lease. Safe to send again after a lost reply.
--
-- KEYS[1] jobs stream      KEYS[2] ledger of the batch      KEYS[3] routing of the batch
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] group            ARGV[6] seconds to keep it where no ledger does      ARGV[7...] field and bytes of each chunk
--
-- Returns 'kept', or 'answered' (the group has an answer) or 'fenced'; nothing was written for these.
local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if stop then return stop end
local known = redis.call('HMGET', KEYS[2], 'g:' .. ARGV[5], 'keep')
if known[1] then return 'answered' end
for at = 7, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1]) end
-- The results of a batch that is not sealed stay, however long that takes, and the seal gives all of them their time.
local left = redis.call('TTL', KEYS[3])
if redis.call('TTL', KEYS[2]) == -1 and left == -1 then return 'kept' end
-- A run that has not consumed the batch keeps it longer.
local keep = string.match(known[2] or '', '^%d+$')
if not keep or #keep > 9 or tonumber(keep) < tonumber(ARGV[6]) then keep = ARGV[6] end
if left < tonumber(keep) then redis.call('EXPIRE', KEYS[3], keep) end
return 'kept'
