-- Keep a job that was given up on as a dead letter, once, only for the holder of the lease. Without a ledger no producer waits
-- for an answer: the entry is acknowledged. With one, its error answers do that, and the ledger says that it was kept.
--
-- KEYS[1] jobs stream      KEYS[2] stream of dead letters      KEYS[3] totals
-- KEYS[4] ledger of the batch, if there is one
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] dead letter      ARGV[6] payload; without it the entry's payload is copied and need not be sent
--
-- Returns 'buried', 'fenced' or 'gone' (the stream has no such entry: send the payload). Nothing was written then.
local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if stop then return stop end

local field = 'dead:' .. ARGV[3]
if KEYS[4] and redis.call('HEXISTS', KEYS[4], field) == 1 then return 'buried' end
local payload, tokens, kind = ARGV[6], '0', 'job'
if not payload then
  local entry = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])[1]
  if not entry then return 'gone' end
  payload = ''
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'payload' then payload = entry[2][i + 1] end
    if entry[2][i] == 'tokens' then tokens = entry[2][i + 1] end
    if entry[2][i] == 'kind' then kind = entry[2][i + 1] end
  end
end
if kind == 'score' then tokens = '0' end -- the totals count what may be generated
-- The letter before the mark: Redis may refuse the letter, and undoes no write.
redis.call('XADD', KEYS[2], '*', 'letter', ARGV[5], 'payload', payload)
if KEYS[4] then
  redis.call('HSETNX', KEYS[4], field, 1)
elseif redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) == 1 then
  redis.pcall('HINCRBY', KEYS[3], 'jobs_acknowledged', 1)
end
redis.pcall('HINCRBY', KEYS[3], 'jobs_buried', 1)
redis.pcall('HINCRBY', KEYS[3], 'tokens_buried', tokens)
return 'buried'
