-- Whether any job of a batch can still be answered: one that waits in the stream, or that is pending. Writes nothing.
--
-- KEYS[1] jobs stream      KEYS[2] ledger of the batch
-- ARGV[1] consumer group   ARGV[2] groups of the batch   ARGV[3...] entries that its jobs were queued as
--
-- Returns 'answered' (all groups are), 'alive' (one of these jobs is), or 'lost' (none is). A job leaves the pending ones
-- in the same script that answers its last group, so what is neither waiting nor pending will never be answered.
local done = tonumber(redis.call('HGET', KEYS[2], 'done') or '0')
if not done or done >= tonumber(ARGV[2]) then return 'answered' end

local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then
  if string.find(groups.err, 'no such key', 1, true) then return 'lost' end
  return groups
end
local delivered
for _, info in ipairs(groups) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  if group['name'] == ARGV[1] then delivered = group['last-delivered-id'] end
end

local function parts(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end

local function is_delivered(id)
  if not delivered then return false end
  local ms, sequence = parts(id)
  local last_ms, last_sequence = parts(delivered)
  return ms < last_ms or (ms == last_ms and sequence <= last_sequence)
end

for i = 3, #ARGV do
  if is_delivered(ARGV[i]) and #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1) > 0 then return 'alive' end
end
-- Last, because each of these reads a payload.
for i = 3, #ARGV do
  if not is_delivered(ARGV[i]) and #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) > 0 then return 'alive' end
end
return 'lost'
