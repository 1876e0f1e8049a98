-- Remove items of the weight store and their entries in its index.
-- KEYS: index, then items. ARGV: 1 to remove only entries whose item is gone, else 0; then a name for each item.
local index, only_gone = KEYS[1], ARGV[1] == '1'
local total = tonumber(redis.call('HGET', index, 'bytes') or '0')
for at = 2, #KEYS do
    if not only_gone or redis.call('EXISTS', KEYS[at]) == 0 then
        redis.call('UNLINK', KEYS[at])
        total = total - tonumber(string.match(redis.call('HGET', index, ARGV[at]) or '', '^(%d+):') or '0')
        redis.call('HDEL', index, ARGV[at])
    end
end
if redis.call('EXISTS', index) == 1 then
    redis.call('HSET', index, 'bytes', math.max(total, 0))
end
return 1
