-- List dead letters, the newest first, without sending their payloads, which may be megabytes. Writes nothing.
--
-- KEYS[1] stream of dead letters
-- ARGV[1] newest id   ARGV[2] oldest id     (`(` before one: without it)
-- ARGV[3] most entries   ARGV[4] bytes of entries after which to stop   ARGV[5] bytes beyond which a letter is not sent
--
-- Returns {{entry id, letter, bytes of the payload}, ...}; the letter is empty where it is too long or there is none.
local rows, read, newest = {}, 0, ARGV[1]
while #rows < tonumber(ARGV[3]) and read < tonumber(ARGV[4]) do
  -- One at a time: the size of an entry is known only after it has been read.
  local entry = redis.call('XREVRANGE', KEYS[1], newest, ARGV[2], 'COUNT', 1)[1]
  if not entry then break end
  local letter, size = '', 0
  for i = 1, #entry[2], 2 do
    read = read + #entry[2][i] + #entry[2][i + 1]
    if entry[2][i] == 'payload' then size = #entry[2][i + 1] end
    if entry[2][i] == 'letter' and #entry[2][i + 1] <= tonumber(ARGV[5]) then letter = entry[2][i + 1] end
  end
  rows[#rows + 1] = {entry[1], letter, size}
  newest = '(' .. entry[1]
end
return rows
