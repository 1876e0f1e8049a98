-- Answer some groups of a batch that have no answer as not needed, and seal the batch with its last one. It needs no
-- worker, and does not cancel the batch: workers that run one of these groups see that `cuts` has changed. Safe to send
-- again after a lost reply, and after another cut died half-way. A group that has an answer keeps it.
--
-- KEYS[1] results stream of the batch      KEYS[2] ledger of the batch      KEYS[3] totals
-- KEYS[4] parts of the batch               KEYS[5] bytes of parts
-- KEYS[6] routing of the batch: only if its answers have some
-- ARGV[1] seconds to keep    ARGV[2] payload of `sealed`    ARGV[3] tokens that a group asks for
-- ARGV[4] 'enough': only if the batch has as many groups with completions as it wanted; 'asked': in any case
-- ARGV[5] batch              ARGV[6], ARGV[7], ... group, error answer of each
--
-- Returns 'unknown' or 'wanted' (it has not enough yet), else how many of the groups are cut, by this call and by earlier
-- ones. Where all have an answer nothing is written. The error UNCUTTABLE says that the ledger holds numbers which cannot
-- be; nothing was written then either.
local known = redis.call('HMGET', KEYS[2], 'groups', 'queued', 'first_groups', 'good')
local groups, queued = known[1], tonumber(known[2] or '0') or 0
if not groups then return 'unknown' end
if ARGV[4] == 'enough' then
  local wanted, good = tonumber(known[3] or ''), tonumber(known[4] or '0')
  if not (wanted and good and wanted >= 1 and good >= wanted) then return 'wanted' end -- no comparison holds for nan
end

local open, cut = {}, 0
for i = 6, #ARGV, 2 do
  local winner = redis.call('HGET', KEYS[2], 'g:' .. ARGV[i])
  if winner == 'cut' then cut = cut + 1 end
  if not winner then open[#open + 1] = i end
end
if #open == 0 then return cut end

-- Redis undoes no write when a later one is refused: adding 0 proves that a field is a number and that we may write it.
redis.call('HINCRBY', KEYS[2], 'cuts', 0)
local before = redis.call('HINCRBY', KEYS[2], 'done', 0)
if before < 0 or not tonumber(groups) or before + #open > tonumber(groups) then
  local told = string.sub(groups, 1, 20) .. ' groups, ' .. string.format('%.0f', before) .. ' of them answered'
  return redis.error_reply('UNCUTTABLE the ledger counts ' .. told .. ', and ' .. #open .. ' more have no answer')
end
local has_parts = redis.call('EXISTS', KEYS[4]) == 1
for _, i in ipairs(open) do
  -- The answer before its mark in the ledger: a marked group without an answer would never get one.
  redis.call('XADD', KEYS[1], '*', 'kind', 'error', 'payload', ARGV[i + 1])
  redis.call('HSETNX', KEYS[2], 'g:' .. ARGV[i], 'cut')
  redis.call('HINCRBY', KEYS[2], 'cuts', 1)
  if has_parts then drop_parts(KEYS[4], KEYS[5], ARGV[5], ARGV[i]) end
  local done = redis.call('HINCRBY', KEYS[2], 'done', 1)
  -- As many answers count in the totals, from workers, cancels and cuts, as groups were queued.
  if done <= queued then
    redis.pcall('HINCRBY', KEYS[3], 'groups_cancelled', 1)
    redis.pcall('HINCRBY', KEYS[3], 'tokens_cancelled', ARGV[3])
  end
  if tostring(done) == groups then
    -- A run that has not consumed it keeps it longer.
    local keep = string.match(redis.call('HGET', KEYS[2], 'keep') or '', '^%d+$')
    if not keep or #keep > 9 or tonumber(keep) < tonumber(ARGV[1]) then keep = ARGV[1] end
    -- The expiry first: a stream that just took its last possible entry refuses the seal.
    redis.call('EXPIRE', KEYS[1], keep)
    redis.call('EXPIRE', KEYS[2], keep)
    if KEYS[6] then redis.call('EXPIRE', KEYS[6], keep) end
    redis.pcall('XADD', KEYS[1], '*', 'kind', 'sealed', 'payload', ARGV[2])
  end
end
return cut + #open
