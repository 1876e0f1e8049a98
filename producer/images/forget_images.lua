-- Take images off the index that Redis has no more. Safe to send twice.
-- KEYS: index, then images. ARGV: the name of each image.
-- Returns the bytes of all images that are left.
local index = KEYS[1]
local total = (tonumber(redis.call('HGET', index, 'bytes') or '0') or 0)
for at = 2, #KEYS do
    if redis.call('EXISTS', KEYS[at]) == 0 then
        total = total - tonumber(string.match(redis.call('HGET', index, ARGV[at - 1]) or '', '^(%d+):') or '0')
        redis.call('HDEL', index, ARGV[at - 1])
    end
end
if redis.call('EXISTS', index) == 1 then
    redis.call('HSET', index, 'bytes', math.max(total, 0))
end
return math.max(total, 0)
