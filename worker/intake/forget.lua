-- Take batches whose ledgers have expired off the index: nobody can attach to them any more.
--
-- KEYS[1] index of batches      KEYS[2], KEYS[3], ... ledger of each batch
-- ARGV[1], ARGV[2], ... the batches
--
-- Returns how many were taken off.
local forgotten = 0
for i = 1, #ARGV do
  if redis.call('EXISTS', KEYS[i + 1]) == 0 then forgotten = forgotten + redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return forgotten
