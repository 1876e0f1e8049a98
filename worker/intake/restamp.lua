-- Count the idle time of some pending entries from now on: those delivered at a time that still lies in the future,
-- because Redis' clock was set back since. Redis calls them idle for 0 ms until its clock has caught up, and no worker
-- would take them over. An entry that was delivered in this very millisecond looks the same; nothing changes for it.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] first entry, `(` before it: without it   ARGV[3] most entries that are looked at
--
-- Returns {id of the last entry looked at, how many were idle for 0 ms}, or {} when there were no more.
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], '+', ARGV[3])
if #pending == 0 then return {} end
local stamped = 0
for _, row in ipairs(pending) do
  if row[3] == 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], row[2], 0, row[1], 'JUSTID')
    stamped = stamped + 1
  end
end
return {pending[#pending][1], stamped}
