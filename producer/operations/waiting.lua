-- Count the entries of a stream after an id without sending their fields, which may be megabytes. Writes nothing.
--
-- KEYS[1] stream
-- ARGV[1] id after which to count   ARGV[2] most entries of one call   ARGV[3] bytes of fields after which to stop
--
-- Returns {entries, id of the last one counted}; fewer than ARGV[2] entries may be followed by more.
local count, read, last = 0, 0, ARGV[1]
while count < tonumber(ARGV[2]) and read < tonumber(ARGV[3]) do
  -- One at a time: the size of an entry is known only after it has been read.
  local entry = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1]
  if not entry then break end
  count, last = count + 1, entry[1]
  for i = 1, #entry[2] do read = read + #entry[2][i] end
end
return {count, last}
