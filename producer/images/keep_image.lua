-- Keep the file of an image, unless all images would then have more bytes than the quota allows. Safe to send twice.
-- KEYS: index, image. ARGV: name, data, ttl in seconds, quota in bytes.
-- Returns {1, bytes of all images}; {0, bytes that all images would have} when refused.
local index, image = KEYS[1], KEYS[2]
local name, data, ttl_s, quota = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local before = tonumber(string.match(redis.call('HGET', index, name) or '', '^(%d+):') or '0')
local total = (tonumber(redis.call('HGET', index, 'bytes') or '0') or 0) - before + #data
if total > quota then
    return {0, total}
end
local now = redis.call('TIME')
redis.call('SET', image, data, 'EX', ttl_s)
redis.call('HSET', index, name, #data .. ':' .. now[1], 'bytes', total)
redis.call('EXPIRE', index, ttl_s)
return {1, total}
