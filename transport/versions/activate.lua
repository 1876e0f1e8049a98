-- From now on an announced policy version is the one to serve. Only this script writes the stream of activations.
--
-- KEYS[1] versions stream   KEYS[2] activations stream   KEYS[3] the trainer's run, if it activates through one
-- ARGV[1] version   ARGV[2] message   ARGV[3] about how many activations the stream keeps   ARGV[4] last possible version
-- ARGV[5] digest of the announced content, in hex as the announcement has it ('' if that cannot be read)
-- ARGV[6] token of the opening that has the run
--
-- Returns what happened, and the version of the last activation ('' if there is none):
--   activated   it is the last activation now
--   already     it was activated before
--   unknown     the versions stream has no such version of this content: not announced yet, or trimmed
--   older       a later version was activated
-- Where another trainer has the run it returns what `taken` returns, and has written nothing.
local other = KEYS[3] and taken(KEYS[3], ARGV[6])
if other then return other end

local id = ARGV[1] .. '-0'

local function at(key, entry_id)
  return redis.call('XRANGE', key, entry_id, entry_id)[1]
end

local function last(key, newest)
  local entry = redis.call('XREVRANGE', key, newest, '-', 'COUNT', 1)[1]
  return entry and string.match(entry[1], '^%d+') or ''
end

local function field(entry, name)
  for index = 1, #entry[2], 2 do
    if entry[2][index] == name then return entry[2][index + 1] end
  end
  return ''
end

-- Whether this announcement is of that content, by its digest; '' fits all.
local function is_of(announced, digest)
  return string.find(field(announced, 'payload'), digest, 1, true) ~= nil
end

-- Whether the last activation belongs to a versions stream that was deleted: it is above every announcement, or its
-- number was announced with other content since.
local function is_former(version)
  if tonumber(version) > tonumber(last(KEYS[1], ARGV[4])) then return true end
  local announced, activation = at(KEYS[1], version .. '-0'), at(KEYS[2], version .. '-0')
  return announced and activation and not is_of(announced, field(activation, 'sha256'))
end

local before = last(KEYS[2], '+')
local announced, there = at(KEYS[1], id), at(KEYS[2], id)
if there and (not announced or is_of(announced, field(there, 'sha256'))) then return {'already', before} end
if not announced or not is_of(announced, ARGV[5]) then return {'unknown', before} end
-- All that was activated before it is of a former stream too. Nobody follows it.
if before ~= '' and is_former(before) then redis.call('DEL', KEYS[2]) end
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], id, 'payload', ARGV[2], 'sha256', ARGV[5])
if type(added) ~= 'table' or not added.err then return {'activated', ARGV[1]} end
if string.find(added.err, 'equal or smaller', 1, true) then return {'older', before} end
return added
