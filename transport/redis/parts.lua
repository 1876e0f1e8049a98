-- What the samples of unanswered groups have so far, and how many bytes that is. It is put before each script that calls
-- it. Nothing here fails: where a key has another type, parts are not deleted or not counted, and the caller goes on.

-- Count bytes of a batch's parts; where the last of them is gone, take off all that was ever counted for the batch: parts
-- may have expired meanwhile.
local function count_parts(parts, bytes, batch, by)
  if redis.call('EXISTS', parts) == 1 then
    redis.pcall('HINCRBY', bytes, batch, by)
    redis.pcall('HINCRBY', bytes, '*', by)
    return
  end
  local counted = redis.pcall('HGET', bytes, batch)
  if type(counted) ~= 'string' then return end
  redis.pcall('HDEL', bytes, batch)
  redis.pcall('HINCRBY', bytes, '*', string.format('%.0f', -(tonumber(counted) or 0)))
  if redis.pcall('HLEN', bytes) == 1 then redis.pcall('DEL', bytes) end
end

-- Delete the parts of a group that has an answer.
local function drop_parts(parts, bytes, batch, group)
  local samples = redis.pcall('HGET', parts, group)
  if type(samples) ~= 'string' then return end
  local freed = 0
  for sample = 0, math.min(tonumber(samples) or 0, 1024) - 1 do
    local field = group .. ':' .. sample
    freed = freed + redis.call('HSTRLEN', parts, field)
    redis.call('HDEL', parts, field, field .. ':tokens')
  end
  redis.call('HDEL', parts, group)
  count_parts(parts, bytes, batch, -freed)
end

-- Delete all parts of a batch.
local function drop_all_parts(parts, bytes, batch)
  if redis.call('UNLINK', parts) == 1 then count_parts(parts, bytes, batch, 0) end
end

