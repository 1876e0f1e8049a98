-- Read for some groups how many samples may have parts, in a reply of bounded size.
--
-- KEYS[1] parts of the batch
-- ARGV    groups
--
-- Returns the number of each group; what is longer than any number is empty, what is not there nil. The error of Redis for
-- a key of another type.
local found = {}
for at, group in ipairs(ARGV) do
  local nbytes = redis.pcall('HSTRLEN', KEYS[1], group)
  if type(nbytes) ~= 'number' then return nbytes end
  found[at] = nbytes > 16 and '' or redis.call('HGET', KEYS[1], group)
end
return found
