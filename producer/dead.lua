-- List dead letters without their payloads, which may be megabytes each. Writes nothing.
--
-- KEYS[1] stream of dead letters
-- ARGV[1] first entry id   ARGV[2] most entries
--
-- Returns {{entry id, letter, bytes of the payload}, ...}.
local rows = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])) do
  local letter, size = '', 0
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'letter' then letter = entry[2][i + 1] end
    if entry[2][i] == 'payload' then size = #entry[2][i + 1] end
  end
  rows[#rows + 1] = {entry[1], letter, size}
end
return rows
