-- Publish one group's answer, once, and only for the holder of the lease. Safe to send again after a lost reply.
--
-- KEYS[1] jobs stream      KEYS[2] results stream of the batch      KEYS[3] ledger of the batch      KEYS[4] totals
-- KEYS[5] parts of the batch, KEYS[6] bytes of parts: only if the group may have parts, which go with its answer
-- KEYS[5] or, after these, KEYS[7] routing of the batch: only if its answers may have some, which stays as long as results
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] group            ARGV[6] kind       ARGV[7] payload    ARGV[8] payload of `sealed`
-- ARGV[9] groups of the batch                 ARGV[10] job       ARGV[11] groups of the job  ARGV[12] seconds to keep
-- ARGV[13] tokens that the group asks for     ARGV[14] batch, with KEYS[6]
--
-- Returns 'published', 'enough' (published, and the batch has as many groups with completions as it wanted while others
-- have no answer yet: these are to be cut), 'duplicate' (the group had an answer) or 'fenced' (nothing was written). The
-- error UNPUBLISHABLE says that the ledger holds numbers which cannot be; nothing was written then either.
local token = ARGV[3] .. '|' .. ARGV[2] .. '|' .. ARGV[4]
local field = 'g:' .. ARGV[5]

local function published(wanted, good, done, groups)
  wanted = tonumber(wanted or '')
  if wanted and wanted >= 1 and (tonumber(good or '') or 0) >= wanted and done < tonumber(groups) then return 'enough' end
  return 'published'
end

-- Our own token before the fence: after the XACK of the last group nothing is pending.
local winner = redis.call('HGET', KEYS[3], field)
if winner == token then
  redis.call('HSET', KEYS[3], field, token) -- changes nothing; without a write WAIT would not wait for the first one
  local known = redis.call('HMGET', KEYS[3], 'first_groups', 'good', 'done')
  return published(known[1], known[2], tonumber(known[3] or '0') or 0, ARGV[9])
end

local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if stop then return stop end

-- Redis undoes no write: so writes that it may refuse come before the first one that counts. Adding 0 proves that a
-- field is a number and that we may write it.
local answered_field = 'answered:' .. ARGV[10]
redis.call('HINCRBY', KEYS[3], answered_field, 0)

local counts, outcome = true, 'duplicate'
if winner then
  -- An answer from an earlier delivery of this entry was counted then; one from another entry is counted here, once.
  counts = string.sub(winner, 1, #ARGV[3] + 1) ~= ARGV[3] .. '|'
    and redis.call('HSETNX', KEYS[3], 'dup:' .. ARGV[10] .. ':' .. ARGV[5], token) == 1
else
  redis.call('HSETNX', KEYS[3], 'groups', ARGV[9])
  local known = redis.call('HMGET', KEYS[3], 'groups', 'queued', 'first_groups')
  local groups, queued, wanted = known[1], tonumber(known[2] or '0') or 0, known[3]
  if wanted then redis.call('HINCRBY', KEYS[3], 'good', 0) end
  local before = redis.call('HINCRBY', KEYS[3], 'done', 0)
  if groups ~= ARGV[9] or before < 0 or before >= tonumber(ARGV[9]) then
    local told = string.sub(groups, 1, 20) .. ' groups, ' .. string.format('%.0f', before) .. ' of them answered'
    return redis.error_reply('UNPUBLISHABLE the ledger counts ' .. told .. ', the job says ' .. ARGV[9] .. ' groups')
  end
  local at = redis.call('XADD', KEYS[2], '*', 'kind', ARGV[6], 'payload', ARGV[7])
  redis.call('HSET', KEYS[3], field, token, 'at:' .. ARGV[5], at)
  local done = redis.call('HINCRBY', KEYS[3], 'done', 1)
  local good = wanted and redis.call('HINCRBY', KEYS[3], 'good', ARGV[6] == 'error' and 0 or 1)
  outcome = published(wanted, good, done, groups)
  -- Totals are only for readers: an answer is published also if their key has another type. As many answers count, from
  -- workers and cancels, as groups were queued.
  if done <= queued then
    redis.pcall('HINCRBY', KEYS[4], 'groups_answered', 1)
    redis.pcall('HINCRBY', KEYS[4], 'tokens_answered', ARGV[13])
  end
  if tostring(done) == groups then
    -- A run that has not consumed it keeps it longer.
    local keep = string.match(redis.call('HGET', KEYS[3], 'keep') or '', '^%d+$')
    if not keep or #keep > 9 or tonumber(keep) < tonumber(ARGV[12]) then keep = ARGV[12] end
    -- The expiry first: a stream that just took its last possible entry refuses the seal, and must expire all the same.
    redis.call('EXPIRE', KEYS[2], keep)
    redis.call('EXPIRE', KEYS[3], keep)
    if #KEYS % 2 == 1 then redis.call('EXPIRE', KEYS[#KEYS], keep) end
    redis.pcall('XADD', KEYS[2], '*', 'kind', 'sealed', 'payload', ARGV[8])
  end
end

if KEYS[6] then drop_parts(KEYS[5], KEYS[6], ARGV[14], ARGV[5]) end
local answered = redis.call('HINCRBY', KEYS[3], answered_field, counts and 1 or 0)
if answered >= tonumber(ARGV[11]) and redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) == 1 then
  redis.pcall('HINCRBY', KEYS[4], 'jobs_acknowledged', 1)
end
return outcome
