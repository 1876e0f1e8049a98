-- From now on an announced policy version is the one to serve. Only this script writes the stream of activations.
--
-- KEYS[1] versions stream   KEYS[2] activations stream
-- ARGV[1] version   ARGV[2] message   ARGV[3] about how many activations the stream keeps   ARGV[4] last possible version
--
-- Returns what happened, and the version of the last activation ('' if there is none):
--   activated   it is the last activation now
--   already     it was activated before
--   unknown     the versions stream has no such version: not announced yet, or trimmed
--   older       a later version was activated
local id = ARGV[1] .. '-0'

local function last(key, newest)
  local entry = redis.call('XREVRANGE', key, newest, '-', 'COUNT', 1)[1]
  return entry and string.match(entry[1], '^%d+') or ''
end

local function add()
  return redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], id, 'payload', ARGV[2])
end

local before = last(KEYS[2], '+')
if #redis.call('XRANGE', KEYS[2], id, id) > 0 then return {'already', before} end
if #redis.call('XRANGE', KEYS[1], id, id) == 0 then return {'unknown', before} end
local added = add()
if type(added) ~= 'table' or not added.err then return {'activated', ARGV[1]} end
if not string.find(added.err, 'equal or smaller', 1, true) then return added end
local announced = tonumber(last(KEYS[1], ARGV[4]))
if before ~= '' and tonumber(before) <= announced then return {'older', before} end
-- Activations above every announcement are those of a versions stream that was deleted. Nobody follows them.
redis.call('DEL', KEYS[2])
added = add()
if type(added) == 'table' and added.err then return added end
return {'activated', ARGV[1]}
