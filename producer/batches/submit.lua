-- Queue some jobs of a batch, each once. Safe to send again after a lost reply, and after the producer died half-way.
--
-- KEYS[1] jobs stream      KEYS[2] ledger of the batch      KEYS[3] index of batches      KEYS[4] totals
-- ARGV[1] content digest   ARGV[2] batch message   ARGV[3] groups of the batch   ARGV[4] batch id
-- ARGV[5] unix seconds of the submit               ARGV[6] words of a job's entry
-- ARGV[7] with how many groups that have completions it is complete; '': all are wanted
-- ARGV[8] seconds to keep the results until a run has consumed them; 0: it is not submitted through a run
-- ARGV[9...] for each job: its number, then field, value, ... of its entry
--
-- Returns 'queued', 'known' when another submit had queued all of these jobs, 'conflict' when the batch id belongs to
-- other content, 'cancelled' when the batch was cancelled, 'consumed' when it is submitted through a run and was consumed
-- (in these three cases nothing was written).
local digest = redis.call('HGET', KEYS[2], 'digest')
if digest and digest ~= ARGV[1] then return 'conflict' end
local of_run = ARGV[8] ~= '0'
local is_consumed = (of_run or not digest) and redis.call('HEXISTS', KEYS[2], 'consumed') == 1
if of_run and is_consumed then return 'consumed' end
if redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then return 'cancelled' end

-- Also if it is there: without a write WAIT would not wait for what an earlier call wrote.
redis.call('HSET', KEYS[2], 'digest', ARGV[1])
if of_run then redis.call('HSET', KEYS[2], 'keep', ARGV[8]) end
if not digest then
  -- All that is there says that a run has dropped it, and expires.
  if is_consumed then redis.call('PERSIST', KEYS[2]) end
  redis.call('HSET', KEYS[2], 'batch', ARGV[2])
  redis.call('HSETNX', KEYS[2], 'groups', ARGV[3])
  if ARGV[7] ~= '' then redis.call('HSET', KEYS[2], 'first_groups', ARGV[7]) end
end
-- The index and the totals are only for readers: if their keys have another type, jobs are queued all the same.
redis.pcall('ZADD', KEYS[3], 'NX', ARGV[5], ARGV[4])

local function count(from, to)
  local groups, tokens, kind, share = 0, 0, 'job', nil
  for at = from, to, 2 do
    if ARGV[at] == 'groups' then groups = ARGV[at + 1] end
    if ARGV[at] == 'tokens' then tokens = ARGV[at + 1] end
    if ARGV[at] == 'kind' then kind = ARGV[at + 1] end
    if ARGV[at] == 'share' then share = ARGV[at + 1] end
  end
  redis.pcall('HINCRBY', KEYS[4], 'jobs_queued', 1)
  if share then -- a group counts once, with all its tokens: when the last of its jobs is queued
    local first, samples, of = string.match(share, '^(%d+):(%d+):(%d+)$')
    if first + samples < tonumber(of) then return end
    tokens = string.format('%.0f', tokens / samples * of)
  end
  if kind == 'score' then tokens = 0 end -- they are only scored, and the totals count what may be generated
  redis.pcall('HINCRBY', KEYS[2], 'queued', groups)
  redis.pcall('HINCRBY', KEYS[4], 'groups_queued', groups)
  redis.pcall('HINCRBY', KEYS[4], 'tokens_queued', tokens)
end

-- The message has the time of its submit. If it is this one's, the call comes again because its reply was lost.
local is_ours, queued = redis.call('HGET', KEYS[2], 'batch') == ARGV[2], false
local words = tonumber(ARGV[6])
for at = 9, #ARGV, words + 1 do
  local field = 'job:' .. ARGV[at]
  if redis.call('HEXISTS', KEYS[2], field) == 0 then
    -- One by one: an error at a later job must not leave an entry that the ledger does not know.
    redis.call('HSET', KEYS[2], field, redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + words)))
    count(at + 1, at + words)
    queued = true
  end
end
return (queued or is_ours) and 'queued' or 'known'
