-- Ask a live worker to drain. Its report keeps its TTL, and one that has expired is not created again.
--
-- KEYS[1] report of the worker
-- ARGV[1] seconds that no report has left (see schemas/reports.py)
--
-- Returns 1, or 0 when there is no such report.
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('TTL', KEYS[1]) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'drain', '1')
return 1
