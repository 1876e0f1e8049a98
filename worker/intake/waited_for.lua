-- Tell for whom entries wait: the consumers of one kind that have any.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] prefix of the consumers that entries wait under
--
-- Returns the consumers' names.
local found = {}
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
  local name = consumer['name']
  if string.sub(name, 1, #ARGV[2]) == ARGV[2] and consumer['pending'] > 0 then found[#found + 1] = name end
end
return found
