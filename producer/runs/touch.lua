-- Prolongs the life of a run, and notes that its trainer lives. It is put before each script that calls it, behind the
-- fence.
--
-- Returns the time, in Unix seconds with three digits behind the point.
local function touch(run, index, name, kept_for)
  local time = redis.call('TIME')
  local now = time[1] .. '.' .. string.format('%03d', math.floor(tonumber(time[2]) / 1000))
  redis.call('HSET', run, 'seen_at', now, 'kept_for', kept_for)
  redis.call('EXPIRE', run, kept_for)
  -- The index is only for readers: if its key has another type, the run goes on all the same.
  redis.pcall('ZADD', index, now, name)
  local left = redis.pcall('TTL', index)
  if type(left) == 'number' and left < tonumber(kept_for) then redis.pcall('EXPIRE', index, kept_for) end
  return now
end

