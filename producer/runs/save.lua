-- Move the cursor without a batch, close the run, or only ask whether it is still this trainer's. Safe to send again
-- after a lost reply, by the name of the call.
--
-- KEYS[1] run      KEYS[2] index of runs
-- ARGV[1] name     ARGV[2] seconds to keep    ARGV[3] token of the opening
-- ARGV[4] name of the call    ARGV[5] name of the call before it, as far as the trainer knows; '' if there was none
-- ARGV[6] version of the cursor, or '' where it stays   ARGV[7] cursor   ARGV[8] state of the gate, or ''
-- ARGV[9] '1' to close it
-- ARGV[10...] settled:<batch id> of batches whose results have their usual time to live again
--
-- Returns {'written', ''}, or {'other', call} where another call was the last, or what `taken` returns; then nothing was
-- written.
local other = taken(KEYS[1], ARGV[3])
if other then return other end
local last = redis.call('HGET', KEYS[1], 'call') or ''
if last ~= ARGV[4] and last ~= ARGV[5] then return {'other', last} end
local now = touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[1], 'call', ARGV[4])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'cursor', ARGV[7], 'cursor_version', ARGV[6], 'cursor_at', now)
end
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'gate', ARGV[8]) end
if ARGV[9] == '1' then redis.call('HSET', KEYS[1], 'closed_at', now) end
for at = 10, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
return {'written', ''}
