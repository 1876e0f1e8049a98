-- Count the idle time of some pending entries from now on: those delivered at a time that still lies in the future,
-- because Redis' clock was set back since. Redis calls them idle for 0 ms until its clock has caught up, and no worker
-- would take them over. An entry that was delivered in this very millisecond looks the same; nothing changes for it. One
-- that waits for a worker had used up a part of its lease when it was parked, which nobody knows any more: its wait ends.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] first entry, `(` before it: without it   ARGV[3] most entries that are looked at
-- ARGV[4] prefix of the consumers under which entries wait for a worker   ARGV[5] idle time of an ended lease, ms
--
-- Returns {id of the last entry looked at, how many were idle for 0 ms}, or {} when there were no more.
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], '+', ARGV[3])
if #pending == 0 then return {} end
local stamped = 0
for _, row in ipairs(pending) do
  if row[3] == 0 then
    local waits = string.sub(row[2], 1, #ARGV[4]) == ARGV[4]
    redis.call('XCLAIM', KEYS[1], ARGV[1], row[2], 0, row[1], 'IDLE', waits and ARGV[5] or 0, 'JUSTID')
    stamped = stamped + 1
  end
end
return {pending[#pending][1], stamped}
