-- Take one entry that waits for the policy version served here or for an older one, with its delivery count. The oldest
-- of those that wait for the same version comes first.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] prefix of the consumers that entries wait under
-- ARGV[4] version served
--
-- Returns {removed} or {removed, entry id, delivery count, {field, value, ...}}. An entry that is no longer in the stream
-- is acknowledged: no worker can ever answer it; `removed` says how many were, at most one for each consumer in a call.
local removed = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
  local name = consumer['name']
  local version = string.sub(name, 1, #ARGV[3]) == ARGV[3] and tonumber(string.sub(name, #ARGV[3] + 1))
  if version and version <= tonumber(ARGV[4]) and consumer['pending'] > 0 then
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, name)[1]
    local entry = redis.call('XRANGE', KEYS[1], pending[1], pending[1])
    if #entry > 0 then
      local deliveries = pending[4] + 1
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1], 'RETRYCOUNT', deliveries, 'JUSTID')
      return {removed, pending[1], deliveries, entry[1][2]}
    end
    redis.call('XACK', KEYS[1], ARGV[1], pending[1])
    removed = removed + 1
  end
end
return {removed}
