-- Read parts, as many as fit into a reply of bounded size, and at least one.
--
-- KEYS[1] parts of the batch
-- ARGV[1] most bytes of the reply      ARGV[2] most bytes of a part
-- ARGV[3...] field of each part
--
-- Returns for each of the first fields two words: the part and how far it is, or for a part that is larger than one may
-- be its size, as a number. What is not there is nil. How far it is in more than 16 bytes is no number, and empty.
local most, found, size = tonumber(ARGV[1]), {}, 0
for at = 3, #ARGV do
  local nbytes = redis.call('HSTRLEN', KEYS[1], ARGV[at])
  if at > 3 and size + nbytes > most then break end
  if nbytes > tonumber(ARGV[2]) then
    found[#found + 1] = nbytes
  else
    size = size + nbytes
    found[#found + 1] = redis.call('HGET', KEYS[1], ARGV[at])
  end
  local far = ARGV[at] .. ':tokens'
  found[#found + 1] = redis.call('HSTRLEN', KEYS[1], far) > 16 and '' or redis.call('HGET', KEYS[1], far)
end
return found
