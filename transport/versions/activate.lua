-- From now on an announced policy version is the one to serve. Only this script writes the stream of activations.
--
-- KEYS[1] versions stream   KEYS[2] activations stream
-- ARGV[1] version   ARGV[2] message   ARGV[3] about how many activations the stream keeps
--
-- Returns what happened, and the version of the last activation ('' if there is none):
--   activated   it is the last activation now
--   already     it was activated before
--   unknown     the versions stream has no such version: not announced yet, or trimmed
--   older       a later version was activated
local id = ARGV[1] .. '-0'

local function last()
  local entry = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  return entry and string.match(entry[1], '^%d+') or ''
end

if #redis.call('XRANGE', KEYS[2], id, id) > 0 then return {'already', last()} end
if #redis.call('XRANGE', KEYS[1], id, id) == 0 then return {'unknown', last()} end
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], id, 'payload', ARGV[2])
if type(added) == 'table' and added.err then
  if not string.find(added.err, 'equal or smaller', 1, true) then return added end
  return {'older', last()}
end
return {'activated', ARGV[1]}
