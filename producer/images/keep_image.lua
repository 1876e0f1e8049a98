-- Keep the file of an image, unless all images would then have more bytes than the quota allows. Safe to send twice.
-- KEYS: index, image. ARGV: name, data, ttl in seconds, quota in bytes.
-- Returns {1, bytes of all images}; {0, bytes that all images would have} when refused.
local function bytes_in(value, pattern) -- anybody may have written it
    local digits = string.match(value or '', pattern) or '0'
    return #digits < 16 and tonumber(digits) or 0
end

local function stay(key, ttl_s) -- and never shorter than it would: a session keeps images for longer
    if redis.call('TTL', key) < ttl_s then redis.call('EXPIRE', key, ttl_s) end
end

local index, image = KEYS[1], KEYS[2]
local name, data, ttl_s, quota = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local before = bytes_in(redis.call('HGET', index, name), '^(%d+):')
local total = bytes_in(redis.call('HGET', index, 'bytes'), '^(%d+)$') - before + #data
if total > quota then
    return {0, total}
end
local now = redis.call('TIME')
redis.call('SET', image, data, 'EX', math.max(ttl_s, redis.call('TTL', image)))
redis.call('HSET', index, name, #data .. ':' .. now[1], 'bytes', total)
stay(index, ttl_s)
return {1, total}
