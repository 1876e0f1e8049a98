-- List dead letters without sending their payloads, which may be megabytes. Writes nothing.
--
-- KEYS[1] stream of dead letters
-- ARGV[1] first entry id, `(` before it: without it   ARGV[2] most entries   ARGV[3] bytes of payloads after which to stop
--
-- Returns {{entry id, letter, bytes of the payload}, ...}; none when there are no more.
local rows, read, first = {}, 0, ARGV[1]
while #rows < tonumber(ARGV[2]) and read < tonumber(ARGV[3]) do
  -- One at a time: the size of an entry is known only after it has been read.
  local entry = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', 1)[1]
  if not entry then break end
  local letter, size = '', 0
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'letter' then letter = entry[2][i + 1] end
    if entry[2][i] == 'payload' then size = #entry[2][i + 1] end
  end
  rows[#rows + 1] = {entry[1], letter, size}
  read = read + size + #letter
  first = '(' .. entry[1]
end
return rows
