-- The newest entry of each stream, short enough to be asked for ten times a second: of a long value only its length, its
-- beginning and its end. An announcement begins with all but its probe, the time of publishing included, so that one
-- that replaces another, with the same id even, looks another way.
--
-- KEYS streams   ARGV[1] last possible version   ARGV[2] bytes of a beginning and of an end
--
-- Returns for each stream the id and the shortened words of its newest entry, or nothing.
local heads = {}
for at, key in ipairs(KEYS) do
  local found = redis.pcall('XREVRANGE', key, ARGV[1], '-', 'COUNT', 1)
  if found.err then
    if string.find(found.err, 'WRONGTYPE', 1, true) then
      return redis.error_reply('WRONGTYPE ' .. key .. ' is no stream: delete the key')
    end
    return found
  end
  local head = {}
  if found[1] then
    head[1] = found[1][1]
    for _, word in ipairs(found[1][2]) do
      if #word > 2 * ARGV[2] then
        head[#head + 1] = #word
        head[#head + 1] = string.sub(word, 1, ARGV[2])
        word = string.sub(word, -ARGV[2])
      end
      head[#head + 1] = word
    end
  end
  heads[at] = head
end
return heads
