-- Keep a batch's results for a run that has it outstanding, and tell how much of it is there. Safe to send again.
--
-- KEYS[1] ledger of the batch      KEYS[2] results stream of the batch      KEYS[3] routing of the batch
-- ARGV[1] content digest of the batch, as the run knows it      ARGV[2] seconds to keep
--
-- Returns digest, description, groups, groups that were queued, and which run has consumed it; nil where the ledger is
-- of another type. Nothing is written there, nor where the digest is another, or a run has consumed it.
local told = redis.pcall('HMGET', KEYS[1], 'digest', 'batch', 'groups', 'queued', 'consumed', 'done')
if told.err then
  if string.find(told.err, 'WRONGTYPE', 1, true) then return false end
  return told
end
if told[1] ~= ARGV[1] or told[5] then return told end
redis.call('HSET', KEYS[1], 'keep', ARGV[2])
for _, key in ipairs(KEYS) do
  local left = redis.call('TTL', key)
  if left >= 0 and left < tonumber(ARGV[2]) then redis.call('EXPIRE', key, ARGV[2]) end
end
return told
