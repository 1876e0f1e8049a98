-- Take images off the index that Redis has no more. Safe to send twice.
-- KEYS: index, then images. ARGV: the name of each image.
-- Returns the bytes of all images that are left.
local function bytes_in(value, pattern) -- anybody may have written it
    local digits = string.match(value or '', pattern) or '0'
    return #digits < 16 and tonumber(digits) or 0
end

local index = KEYS[1]
local total = bytes_in(redis.call('HGET', index, 'bytes'), '^(%d+)$')
for at = 2, #KEYS do
    if redis.call('EXISTS', KEYS[at]) == 0 then
        total = total - bytes_in(redis.call('HGET', index, ARGV[at - 1]), '^(%d+):')
        redis.call('HDEL', index, ARGV[at - 1])
    end
end
if redis.call('EXISTS', index) == 1 then
    redis.call('HSET', index, 'bytes', math.max(total, 0))
end
return math.max(total, 0)
