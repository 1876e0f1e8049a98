-- Trim finished jobs that are older than the retention; never an entry that is pending or was not delivered.
--
-- KEYS[1] jobs stream
-- ARGV[1] consumer group   ARGV[2] retention, ms
--
-- Returns how many entries went.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return 0 end

local function ms_of(id) return tonumber(string.match(id, '^%d+')) end

local keep_from
for _, info in ipairs(groups) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  if group['name'] == ARGV[1] then keep_from = group['last-delivered-id'] end
end
if not keep_from then return 0 end

local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
if pending[1] > 0 and ms_of(pending[2]) <= ms_of(keep_from) then keep_from = pending[2] end
local now = redis.call('TIME')
local horizon = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[2])
if horizon < ms_of(keep_from) then keep_from = string.format('%.0f', math.max(horizon, 0)) end
return redis.call('XTRIM', KEYS[1], 'MINID', keep_from)
