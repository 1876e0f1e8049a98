-- Take over one entry whose lease ran out, with its delivery count.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] idle time of an ended lease, ms   ARGV[4] cursor
-- ARGV[5] most steps of XAUTOCLAIM, each of which looks at ten entries
--
-- Returns {next cursor, removed} or {next cursor, removed, entry id, delivery count, {field, value, ...}}. An entry that
-- is no longer in the stream is acknowledged: no worker can ever answer it; `removed` says how many were.
local cursor = ARGV[4]
local removed = 0
for _ = 1, ARGV[5] do
  -- JUSTID counts no delivery, so it is counted below, where the script knows the number that it writes.
  local reply = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], cursor, 'COUNT', 1, 'JUSTID')
  cursor = reply[1]
  removed = removed + #(reply[3] or {}) -- 6.2 leaves entries that are gone on the pending list, 7 removes them
  local id = reply[2][1]
  if id then
    local entry = redis.call('XRANGE', KEYS[1], id, id)
    if #entry > 0 then
      local deliveries = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1][4] + 1
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
      return {cursor, removed, id, deliveries, entry[1][2]}
    end
    redis.call('XACK', KEYS[1], ARGV[1], id)
    removed = removed + 1
  end
  if cursor == '0-0' then break end
end
return {cursor, removed}
