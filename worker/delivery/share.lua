-- Note that a job's samples of a group are finished and in Redis, and tell whether those of the group's other jobs are
-- too: then this job is to put the group together and publish it. Only for the holder of the lease. Safe to send again
-- after a lost reply.
--
-- KEYS[1] jobs stream      KEYS[2] ledger of the batch      KEYS[3] parts of the batch      KEYS[4] totals
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] group            ARGV[6] first sample             ARGV[7] samples         ARGV[8] samples of the group
-- ARGV[9] job              ARGV[10] groups of the job       ARGV[11] seconds to keep the parts
--
-- Returns 'kept' (other jobs have samples to sample yet), 'complete' (none has; the group counts as this job's once it is
-- published), 'answered' (the group has an answer), 'cancelled' (the batch is), 'missing' (one of this job's own samples is
-- not there) or 'fenced'; nothing was written for the last three.
local token = ARGV[3] .. '|' .. ARGV[2] .. '|' .. ARGV[4]
local share, duplicate = 'share:' .. ARGV[9] .. ':' .. ARGV[5], 'dup:' .. ARGV[9] .. ':' .. ARGV[5]

-- What this delivery has noted comes before the fence: after the XACK of the last group nothing is pending.
local noted = redis.call('HMGET', KEYS[2], share, duplicate, 'g:' .. ARGV[5])
if noted[1] == 'kept|' .. token then
  redis.call('HSET', KEYS[2], share, noted[1]) -- changes nothing; without a write WAIT would not wait for the first one
  return 'kept'
end
if noted[2] == token then
  redis.call('HSET', KEYS[2], duplicate, token)
  return 'answered'
end

local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if stop then return stop end

local is_kept = noted[1] and string.sub(noted[1], 1, 5) == 'kept|'
local samples_field, answered_field = 'samples:' .. ARGV[5], 'answered:' .. ARGV[9]
-- Redis undoes no write: adding 0 proves that a field is a number, before the first write that counts.
local samples = redis.call('HINCRBY', KEYS[2], samples_field, 0)
redis.call('HINCRBY', KEYS[2], answered_field, 0)

local function count(by)
  local answered = redis.call('HINCRBY', KEYS[2], answered_field, by)
  if answered >= tonumber(ARGV[10]) and redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) == 1 then
    redis.pcall('HINCRBY', KEYS[4], 'jobs_acknowledged', 1)
  end
end

if noted[3] then
  -- Another job may have answered it, with an error. What this entry published or kept was counted then.
  local is_own = string.sub(noted[3], 1, #ARGV[3] + 1) == ARGV[3] .. '|'
  local counts = not is_own and not is_kept and redis.call('HSETNX', KEYS[2], duplicate, token) == 1
  count(counts and 1 or 0)
  return 'answered'
end
if redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then return 'cancelled' end
if is_kept then return 'kept' end
for sample = ARGV[6], ARGV[6] + ARGV[7] - 1 do
  local field = ARGV[5] .. ':' .. string.format('%d', sample) .. ':tokens'
  if redis.pcall('HGET', KEYS[3], field) ~= 'finished' then return 'missing' end
end

redis.call('EXPIRE', KEYS[3], ARGV[11])
if not noted[1] then samples = redis.call('HINCRBY', KEYS[2], samples_field, ARGV[7]) end
if samples >= tonumber(ARGV[8]) then
  redis.call('HSET', KEYS[2], share, 'complete')
  return 'complete'
end
redis.call('HSET', KEYS[2], share, 'kept|' .. token)
count(1)
return 'kept'
