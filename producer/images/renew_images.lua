-- Let images stay that are there, for a job that will name them. Safe to send twice.
-- KEYS: index, then images. ARGV: ttl in seconds; then name and bytes of each image.
-- Returns for each image 1 if it is there, as long as it has to be, else 0.
local index, ttl_s = KEYS[1], tonumber(ARGV[1])
local now, there = redis.call('TIME')[1], {}
local total, found = (tonumber(redis.call('HGET', index, 'bytes') or '0') or 0), false
for at = 2, #KEYS do
    local name, nbytes = ARGV[2 * at - 2], tonumber(ARGV[2 * at - 1])
    if redis.call('STRLEN', KEYS[at]) == nbytes then
        local before = tonumber(string.match(redis.call('HGET', index, name) or '', '^(%d+):') or '0')
        redis.call('EXPIRE', KEYS[at], ttl_s)
        redis.call('HSET', index, name, nbytes .. ':' .. now)
        total, found = total - before + nbytes, true
        there[at - 1] = 1
    else
        there[at - 1] = 0
    end
end
if found then
    redis.call('HSET', index, 'bytes', total)
    redis.call('EXPIRE', index, ttl_s)
end
return there
