-- Answer the unanswered of some groups of a batch as cancelled, and seal it with the last one. Safe to send again after a
-- lost reply, and after another cancel died half-way. A group that has an answer keeps it.
--
-- KEYS[1] results stream of the batch      KEYS[2] ledger of the batch
-- ARGV[1] unix seconds     ARGV[2] seconds to keep    ARGV[3] payload of `sealed`
-- ARGV[4] first group      ARGV[5...] error answer of this group and of those after it; none: only mark the batch
--
-- Returns 'unknown' or 'sealed' (nothing was written), else how many of the groups are cancelled.
local groups = redis.call('HGET', KEYS[2], 'groups')
if not groups then return 'unknown' end
local done = redis.call('HGET', KEYS[2], 'done') or '0'
if #ARGV == 4 then
  if done == groups then return 'sealed' end
  redis.call('HSETNX', KEYS[2], 'cancelled', ARGV[1])
end

local cancelled = 0
for i = 5, #ARGV do
  local field = 'g:' .. string.format('%d', ARGV[4] + i - 5)
  local winner = redis.call('HGET', KEYS[2], field)
  if not winner then
    redis.call('HSET', KEYS[2], field, 'cancelled')
    redis.call('XADD', KEYS[1], '*', 'kind', 'error', 'payload', ARGV[i])
    done = tostring(redis.call('HINCRBY', KEYS[2], 'done', 1))
    if done == groups then
      redis.call('XADD', KEYS[1], '*', 'kind', 'sealed', 'payload', ARGV[3])
      redis.call('EXPIRE', KEYS[1], ARGV[2])
      redis.call('EXPIRE', KEYS[2], ARGV[2])
    end
  end
  if not winner or winner == 'cancelled' then cancelled = cancelled + 1 end
end
return cancelled
