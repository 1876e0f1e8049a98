-- Note a turn of a session, before its batch is queued; or the same one again. Safe to send again after a lost reply: a
-- batch is one turn.
--
-- KEYS[1] session      KEYS[2] index of sessions
-- ARGV[1] name         ARGV[2] seconds to keep     ARGV[3] token, if the session is new
-- ARGV[4] of:<batch id>   ARGV[5] of:<batch id of the turn it goes on from>, or ''   ARGV[6] turn
-- ARGV[7] how many turns there must be, if it is new, or ''
-- ARGV[8] the most turns   ARGV[9] the most bytes of them   ARGV[10] the longest time that a session is kept
-- ARGV[11] seconds after which the results of all its turns are given their full time again
--
-- Returns {'appended' or 'again', number of the turn, turn, 1 where the results are to be given their full time, else 0};
-- or {'no_parent'}, {'moved', turns}, {'full', turns, bytes}, {'unreadable', name of a field}: nothing was written then.
local function touch()
  local time = redis.call('TIME')
  local now = time[1] .. '.' .. string.format('%03d', math.floor(tonumber(time[2]) / 1000))
  redis.call('HSET', KEYS[1], 'seen_at', now, 'kept_for', ARGV[2])
  redis.call('HSETNX', KEYS[1], 'token', ARGV[3])
  redis.call('HSETNX', KEYS[1], 'opened_at', now)
  redis.call('HSETNX', KEYS[1], 'renewed_at', now)
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  -- The index is only for readers: if its key has another type, the session goes on all the same.
  redis.pcall('ZADD', KEYS[2], now, ARGV[1])
  redis.pcall('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%d', tonumber(time[1]) - tonumber(ARGV[10])))
  local left = redis.pcall('TTL', KEYS[2])
  if type(left) == 'number' and left < tonumber(ARGV[2]) then redis.pcall('EXPIRE', KEYS[2], ARGV[2]) end
  local renewed = tonumber(redis.call('HGET', KEYS[1], 'renewed_at')) or 0
  -- A clock that was set back must not put it off for ever.
  if math.abs(tonumber(now) - renewed) < tonumber(ARGV[11]) then return 0 end
  redis.call('HSET', KEYS[1], 'renewed_at', now)
  return 1
end

local there = redis.call('HGET', KEYS[1], ARGV[4])
if there then
  local turn = redis.call('HGET', KEYS[1], 'turn:' .. there)
  if not turn then return {'unreadable', ARGV[4]} end
  return {'again', there, turn, touch()}
end
local is_known = ARGV[5] == '' or redis.call('HEXISTS', KEYS[1], ARGV[5]) == 1
if not is_known then return {'no_parent'} end
local counts = redis.call('HMGET', KEYS[1], 'count', 'bytes')
local turns, bytes = tonumber(counts[1] or '0'), tonumber(counts[2] or '0')
if not turns or turns < 0 or turns % 1 ~= 0 then return {'unreadable', 'count'} end
if not bytes or bytes < 0 or bytes % 1 ~= 0 then return {'unreadable', 'bytes'} end
if ARGV[7] ~= '' and turns ~= tonumber(ARGV[7]) then return {'moved', string.format('%d', turns)} end
if turns >= tonumber(ARGV[8]) or bytes + #ARGV[6] > tonumber(ARGV[9]) then
  return {'full', string.format('%d', turns), string.format('%d', bytes)}
end
local number = string.format('%d', turns)
redis.call('HSET', KEYS[1], ARGV[4], number, 'turn:' .. number, ARGV[6])
redis.call('HSET', KEYS[1], 'count', string.format('%d', turns + 1), 'bytes', string.format('%d', bytes + #ARGV[6]))
return {'appended', number, ARGV[6], touch()}
