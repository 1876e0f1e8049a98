-- Answer those of some groups of a batch that have no answer as cancelled, and seal the batch with the last one. Safe to
-- send again after a lost reply, and after another cancel died half-way. A group that has an answer keeps it.
--
-- KEYS[1] results stream of the batch      KEYS[2] ledger of the batch      KEYS[3] totals
-- KEYS[4] parts of the batch               KEYS[5] bytes of parts
-- KEYS[6] routing of the batch: only if its answers have some
-- ARGV[1] unix seconds     ARGV[2] seconds to keep    ARGV[3] payload of `sealed`    ARGV[4] tokens that a group asks for
-- ARGV[5] batch            ARGV[6] first group      ARGV[7...] error answer of this group and of those after it
--
-- Returns 'unknown' or 'sealed' (complete without a cancel; nothing was written), else how many of the groups are
-- cancelled. A batch that is complete and was cancelled is counted, and nothing is written.
local groups = redis.call('HGET', KEYS[2], 'groups')
if not groups then return 'unknown' end
local done = redis.call('HGET', KEYS[2], 'done') or '0'
if done ~= groups then
  -- Redis undoes no write when a later one is refused: so before an XADD, check that the writes after it are allowed.
  redis.call('HSETNX', KEYS[2], 'cancelled', ARGV[1])
  redis.call('HINCRBY', KEYS[2], 'done', 0)
elseif redis.call('HEXISTS', KEYS[2], 'cancelled') == 0 then
  return 'sealed'
end

-- A group that was never queued is not counted: as many answers count, from workers and cancels, as groups were queued.
local queued = tonumber(redis.call('HGET', KEYS[2], 'queued') or '0') or 0
local cancelled = 0
drop_all_parts(KEYS[4], KEYS[5], ARGV[5])
for i = 7, #ARGV do
  local field = 'g:' .. string.format('%d', ARGV[6] + i - 7)
  local winner = redis.call('HGET', KEYS[2], field)
  if not winner then
    -- The answer before its mark in the ledger: a marked group without an answer would never get one.
    redis.call('XADD', KEYS[1], '*', 'kind', 'error', 'payload', ARGV[i])
    redis.call('HSETNX', KEYS[2], field, 'cancelled')
    local answered = redis.call('HINCRBY', KEYS[2], 'done', 1)
    if answered <= queued then
      redis.pcall('HINCRBY', KEYS[3], 'groups_cancelled', 1)
      redis.pcall('HINCRBY', KEYS[3], 'tokens_cancelled', ARGV[4])
    end
    done = tostring(answered)
    if done == groups then
      -- A run that has not consumed it keeps it longer.
      local keep = string.match(redis.call('HGET', KEYS[2], 'keep') or '', '^%d+$')
      if not keep or #keep > 9 or tonumber(keep) < tonumber(ARGV[2]) then keep = ARGV[2] end
      -- The expiry first: a stream that just took its last possible entry refuses the seal.
      redis.call('EXPIRE', KEYS[1], keep)
      redis.call('EXPIRE', KEYS[2], keep)
      if KEYS[6] then redis.call('EXPIRE', KEYS[6], keep) end
      redis.pcall('XADD', KEYS[1], '*', 'kind', 'sealed', 'payload', ARGV[3])
    end
  end
  if not winner or winner == 'cancelled' then cancelled = cancelled + 1 end
end
return cancelled
