-- Move the cursor without a batch, close the run, or only ask whether it is still this trainer's. Safe to send again.
--
-- KEYS[1] run      KEYS[2] index of runs
-- ARGV[1] name     ARGV[2] seconds to keep    ARGV[3] token of the opening
-- ARGV[4] version of the cursor, or '' where it stays   ARGV[5] cursor   ARGV[6] state of the gate, or ''
-- ARGV[7] '1' to close it
-- ARGV[8...] settled:<batch id> of batches whose results have their usual time to live again
--
-- Returns {'saved'}, or what `taken` returns; then nothing was written.
local other = taken(KEYS[1], ARGV[3])
if other then return other end
local now = touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'cursor', ARGV[5], 'cursor_version', ARGV[4], 'cursor_at', now)
end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'gate', ARGV[6]) end
if ARGV[7] == '1' then redis.call('HSET', KEYS[1], 'closed_at', now) end
for at = 8, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
return {'saved'}
