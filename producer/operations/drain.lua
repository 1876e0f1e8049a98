-- Ask a live worker to drain. The report keeps its TTL; a report that has expired is not created again.
--
-- KEYS[1] report of the worker
-- ARGV[1] a report with a longer TTL than this (seconds) is a dead worker's (see schemas/times.py)
--
-- Returns 1, or 0 when there is no such report.
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('TTL', KEYS[1]) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'drain', '1')
return 1
