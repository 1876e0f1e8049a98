-- The fence: only the holder of a delivery may end it. It is put before each script that calls it.
--
-- Returns nil to the holder of this delivery of the entry, else what the script is to return: 'fenced', or the error of
-- Redis.
local function fenced(stream, group, consumer, entry, delivery)
  local pending = redis.pcall('XPENDING', stream, group, entry, entry, 1)
  if pending.err then return string.sub(pending.err, 1, 7) == 'NOGROUP' and 'fenced' or pending end
  if #pending == 0 or pending[1][2] ~= consumer or tostring(pending[1][4]) ~= delivery then return 'fenced' end
  return nil
end

