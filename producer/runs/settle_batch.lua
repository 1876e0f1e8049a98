-- A batch is consumed, or dropped, and the cursor moves with it: both or neither. Safe to send again after a lost reply,
-- by the name of the call.
--
-- KEYS[1] run      KEYS[2] index of runs
-- ARGV[1] name     ARGV[2] seconds to keep    ARGV[3] token of the opening
-- ARGV[4] outstanding:<batch id>   ARGV[5] settled:<batch id>   ARGV[6] name of the call   ARGV[7] field that counts it
-- ARGV[8] version of the cursor, or '' where it stays           ARGV[9] cursor   ARGV[10] state of the gate, or ''
-- ARGV[11...] settled:<batch id> of batches whose results have their usual time to live again
--
-- Returns {'settled'}, or {'before'} where another call has settled it, {'unknown'} where it is not outstanding, or what
-- `taken` returns; in these three cases nothing was written.
local other = taken(KEYS[1], ARGV[3])
if other then return other end
local call = redis.call('HGET', KEYS[1], ARGV[5])
if call and call ~= ARGV[6] then return {'before'} end
if not call then
  local is_outstanding = redis.call('HEXISTS', KEYS[1], ARGV[4]) == 1
  if not is_outstanding then return {'unknown'} end
  -- Redis undoes no write: what it may refuse comes first.
  redis.call('HINCRBY', KEYS[1], ARGV[7], 1)
  redis.call('HDEL', KEYS[1], ARGV[4])
end
redis.call('HSET', KEYS[1], ARGV[5], ARGV[6])
local now = touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
if ARGV[8] ~= '' then
  redis.call('HSET', KEYS[1], 'cursor', ARGV[9], 'cursor_version', ARGV[8], 'cursor_at', now)
end
if ARGV[10] ~= '' then redis.call('HSET', KEYS[1], 'gate', ARGV[10]) end
for at = 11, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
return {'settled'}
