-- Trim finished jobs, oldest first: those older than the retention, and more while the stream is larger than it may be.
-- Entries that are pending or were not delivered stay. One call does a bounded amount of work; 0: nothing is left to do.
--
-- KEYS[1] jobs stream      KEYS[2] hash of horizons, used only while ids run ahead of Redis' clock
-- ARGV[1] consumer group   ARGV[2] retention, ms   ARGV[3] retention, bytes
-- ARGV[4] most entries that one step removes       ARGV[5] most steps
--
-- Returns how many entries were removed.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return 0 end

local function ms_of(id) return tonumber(string.match(id, '^%d+')) end
local function sequence_of(id) return tonumber(string.match(id, '%d+$')) end
local function is_before(one, other)
  if ms_of(one) ~= ms_of(other) then return ms_of(one) < ms_of(other) end
  return sequence_of(one) < sequence_of(other)
end

local keep_from
for _, info in ipairs(groups) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  if group['name'] == ARGV[1] then keep_from = group['last-delivered-id'] end
end
if not keep_from then return 0 end

local delivered = keep_from
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
if pending[1] > 0 and ms_of(pending[2]) <= ms_of(keep_from) then keep_from = pending[2] end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local horizon = now - tonumber(ARGV[2])
horizon = horizon < ms_of(keep_from) and string.format('%.0f', math.max(horizon, 0)) or keep_from

-- After a clock that was ahead is set right, ids do not tell an entry's age, nor do those of later entries. So the hash
-- notes which entry had been delivered when: entries before it are at least as old. It has at most some 70 fields.
if ms_of(delivered) > now + 1000 then
  local apart = math.max(tonumber(ARGV[2]) / 64, 1000)
  local newest, oldest_kept = -1, nil
  local flat = redis.call('HGETALL', KEYS[2])
  for i = 1, #flat, 2 do
    local id, at = flat[i], tonumber(flat[i + 1])
    if not at or at > now or not string.match(id, '^%d+%-%d+$') then
      redis.call('HDEL', KEYS[2], id)  -- noted while the clock was ahead
    else
      newest = math.max(newest, at)
      if at <= now - tonumber(ARGV[2]) then
        if oldest_kept and is_before(id, oldest_kept) then
          redis.call('HDEL', KEYS[2], id)
        else
          if oldest_kept then redis.call('HDEL', KEYS[2], oldest_kept) end
          oldest_kept = id
        end
      end
    end
  end
  if newest < 0 or now - newest >= apart then
    redis.call('HSETNX', KEYS[2], delivered, string.format('%.0f', now))
    if tonumber(ARGV[2]) == 0 then oldest_kept = delivered end
  end
  local keep_s = math.min(tonumber(ARGV[2]) / 500 + 86400, 10000000)
  redis.call('EXPIRE', KEYS[2], string.format('%.0f', keep_s))
  if oldest_kept then horizon = is_before(oldest_kept, keep_from) and oldest_kept or keep_from end
end

-- Whole nodes of the stream, because only `~` takes a LIMIT. Small jobs share a node of a few KiB; a large one has its
-- own.
local function step(min_id, most)
  return redis.call('XTRIM', KEYS[1], 'MINID', '~', min_id, 'LIMIT', most)
end

local most = tonumber(ARGV[4])
local trimmed = 0
for _ = 1, ARGV[5] do
  local gone = step(horizon, most)
  -- Entries that remain to be removed then share a node with entries that stay.
  if gone == 0 then gone = redis.call('XTRIM', KEYS[1], 'MINID', horizon) end
  if gone == 0 then break end
  trimmed = trimmed + gone
end
for _ = 1, ARGV[5] do
  -- The samples are the oldest nodes: with the default of five, a few large jobs would stand for all.
  if redis.call('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 1000) <= tonumber(ARGV[3]) then break end
  -- Not less than the oldest node's entries: a smaller limit removes nothing.
  local gone, limit = 0, 1
  while gone == 0 and limit < 2 * most do
    gone = step(keep_from, limit)
    limit = 2 * limit
  end
  if gone == 0 then break end
  trimmed = trimmed + gone
end
return trimmed
