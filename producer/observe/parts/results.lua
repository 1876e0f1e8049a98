-- Tell where the answers of a batch are, by the first bytes of each: an answer may be megabytes. Writes nothing.
--
-- KEYS[1] stream of results
-- ARGV[1] first id, `(` before it: without it   ARGV[2] most entries   ARGV[3] bytes of entries after which to stop
-- ARGV[4] bytes of a payload to send
--
-- Returns {{entry id, bytes of the entry, first bytes of the payload}, ...}; none when there are no more.
local rows, read, first = {}, 0, ARGV[1]
while #rows < tonumber(ARGV[2]) and read < tonumber(ARGV[3]) do
  -- One at a time: the size of an entry is known only after it has been read.
  local entry = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', 1)[1]
  if not entry then break end
  local head, size = '', 0
  for i = 1, #entry[2], 2 do
    size = size + #entry[2][i] + #entry[2][i + 1]
    if entry[2][i] == 'payload' then head = string.sub(entry[2][i + 1], 1, ARGV[4]) end
  end
  rows[#rows + 1] = {entry[1], size, head}
  read = read + size
  first = '(' .. entry[1]
end
return rows
