-- Announce a policy version, which must be newer than all before it.
--
-- KEYS[1] versions stream   KEYS[2] activations stream   KEYS[3] the trainer's run, if it publishes through one
-- ARGV[1] version   ARGV[2] message   ARGV[3] about how many announcements the stream keeps
-- ARGV[4] token of the opening that has the run
--
-- Returns 1, or 0 where the stream has this version or a later one, or what `taken` returns; then nothing was written.
local other = KEYS[3] and taken(KEYS[3], ARGV[4])
if other then return other end

-- A first announcement begins a new stream: activations that are there are of one that was deleted.
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) end
local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], ARGV[1] .. '-0', 'payload', ARGV[2])
if type(added) ~= 'table' or not added.err then return 1 end
if string.find(added.err, 'equal or smaller', 1, true) then return 0 end
return added
