-- Let images stay that are there, for a job that will name them. Safe to send twice.
-- KEYS: index, then images. ARGV: ttl in seconds; then name and bytes of each image.
-- Returns for each image 1 if it is there, as long as it has to be, else 0.
local function bytes_in(value, pattern) -- anybody may have written it
    local digits = string.match(value or '', pattern) or '0'
    return #digits < 16 and tonumber(digits) or 0
end

local function stay(key, ttl_s) -- and never shorter than it would: a session keeps images for longer
    if redis.call('TTL', key) < ttl_s then redis.call('EXPIRE', key, ttl_s) end
end

local index, ttl_s = KEYS[1], tonumber(ARGV[1])
local now, there = redis.call('TIME')[1], {}
local total, found = bytes_in(redis.call('HGET', index, 'bytes'), '^(%d+)$'), false
for at = 2, #KEYS do
    local name, nbytes = ARGV[2 * at - 2], tonumber(ARGV[2 * at - 1])
    if redis.call('STRLEN', KEYS[at]) == nbytes then
        local before = bytes_in(redis.call('HGET', index, name), '^(%d+):')
        stay(KEYS[at], ttl_s)
        redis.call('HSET', index, name, nbytes .. ':' .. now)
        total, found = total - before + nbytes, true
        there[at - 1] = 1
    else
        there[at - 1] = 0
    end
end
if found then
    redis.call('HSET', index, 'bytes', total)
    stay(index, ttl_s)
end
return there
