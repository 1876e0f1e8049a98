-- Let an image stay that is used, and never shorter than it would: a session may keep it for longer. Safe to send twice.
-- KEYS: image. ARGV: ttl in seconds.
-- Returns 1 if it is there, else 0.
local left = redis.call('TTL', KEYS[1])
if left == -2 then return 0 end
if left < tonumber(ARGV[1]) then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 1
