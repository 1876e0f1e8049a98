-- Batches are consumed, or dropped, and the cursor moves with it: all or nothing. Safe to send again after a lost reply,
-- by the name of the call.
--
-- KEYS[1] run      KEYS[2] index of runs
-- ARGV[1] name     ARGV[2] seconds to keep    ARGV[3] token of the opening
-- ARGV[4] name of the call    ARGV[5] name of the call before it, as far as the trainer knows; '' if there was none
-- ARGV[6] version of the cursor, or '' where it stays           ARGV[7] cursor   ARGV[8] state of the gate, or ''
-- ARGV[9] field that counts them   ARGV[10] how many they are
-- ARGV[11...] outstanding:<batch id> and settled:<batch id> of each, and then settled:<batch id> of batches whose results have their usual time to live again
--
-- Returns {'written', ''}, or {'other', call} where another call was the last, {'before', number} where one of them was
-- settled, {'unknown', number} where one is not outstanding (the first is 0), or what `taken` returns; then nothing was
-- written.
local other = taken(KEYS[1], ARGV[3])
if other then return other end
local last = redis.call('HGET', KEYS[1], 'call') or ''
if last == ARGV[4] then
  touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
  return {'written', ''}
end
if last ~= ARGV[5] then return {'other', last} end
local rest = 11 + 2 * tonumber(ARGV[10])
for at = 11, rest - 1, 2 do
  local number = string.format('%d', (at - 11) / 2)
  local is_settled = redis.call('HEXISTS', KEYS[1], ARGV[at + 1]) == 1
  if is_settled then return {'before', number} end
  local is_outstanding = redis.call('HEXISTS', KEYS[1], ARGV[at]) == 1
  if not is_outstanding then return {'unknown', number} end
end
-- Redis undoes no write: what it may refuse comes first.
redis.call('HINCRBY', KEYS[1], ARGV[9], ARGV[10])
redis.call('HSET', KEYS[1], 'call', ARGV[4])
for at = 11, rest - 1, 2 do
  redis.call('HDEL', KEYS[1], ARGV[at])
  redis.call('HSET', KEYS[1], ARGV[at + 1], ARGV[4])
end
local now = touch(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'cursor', ARGV[7], 'cursor_version', ARGV[6], 'cursor_at', now)
end
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'gate', ARGV[8]) end
for at = rest, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
return {'written', ''}
