-- Queue one job of a batch, once. Safe to send again after a lost reply, and after the producer died half-way.
--
-- KEYS[1] jobs stream      KEYS[2] ledger of the batch
-- ARGV[1] content digest   ARGV[2] batch message   ARGV[3] groups of the batch   ARGV[4] job
-- ARGV[5...] field, value, ... of the job's entry
--
-- Returns the id of the job's entry, or 'conflict' when the batch id belongs to other content, 'cancelled' when the batch
-- was cancelled (nothing was written).
local digest = redis.call('HGET', KEYS[2], 'digest')
if digest and digest ~= ARGV[1] then return 'conflict' end
if redis.call('HEXISTS', KEYS[2], 'cancelled') == 1 then return 'cancelled' end

local field = 'job:' .. ARGV[4]
local queued = redis.call('HGET', KEYS[2], field)
if queued then return queued end

if not digest then
  redis.call('HSET', KEYS[2], 'digest', ARGV[1], 'batch', ARGV[2])
  redis.call('HSETNX', KEYS[2], 'groups', ARGV[3])
end
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 5))
redis.call('HSET', KEYS[2], field, entry)
return entry
