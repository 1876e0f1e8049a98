-- Tell the first entry of a stream from an id on, without sending its payload, which may be megabytes. Writes nothing.
--
-- KEYS[1] stream
-- ARGV[1] first id, `(` before it: without it
--
-- Returns {id, batch that the entry names}; nothing when there is no such entry.
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 1)[1]
if not entry then return {} end
local batch = ''
for i = 1, #entry[2], 2 do
  if entry[2][i] == 'batch' then batch = string.sub(entry[2][i + 1], 1, 200) end
end
return {entry[1], batch}
