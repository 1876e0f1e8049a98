-- Keep what samples have so far, only for the holder of the lease and only while their group has no answer. Safe to send
-- again after a lost reply, and after a later call: what is further or finished stays.
--
-- KEYS[1] jobs stream      KEYS[2] ledger of the batch      KEYS[3] parts of the batch      KEYS[4] bytes of parts
-- ARGV[1] consumer group   ARGV[2] consumer   ARGV[3] entry id   ARGV[4] delivery count      (the fencing token)
-- ARGV[5] batch            ARGV[6] seconds to keep            ARGV[7] most bytes of all parts here; 0: any number
-- ARGV[8...] for each part: its group, sample, 'finished' or its number of tokens, and its payload; an empty payload
--            deletes what is there
--
-- Returns 'fenced' (nothing was written), 'gone' (the batch was cancelled or has no ledger; nothing was written), or for
-- each part 'kept' (it is there, or what is further), 'answered' (its group is) or 'over' (no room for its bytes). The
-- error of Redis for a key of another type; nothing was written then either.
local stop = fenced(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if stop then return stop end

local known = redis.call('HMGET', KEYS[2], 'groups', 'cancelled')
if not known[1] or known[2] then return 'gone' end
local there = redis.pcall('HLEN', KEYS[3])
if type(there) ~= 'number' then return there end
local total = redis.pcall('HGET', KEYS[4], '*')
if type(total) == 'table' then return total end
if there == 0 then
  count_parts(KEYS[3], KEYS[4], ARGV[5], 0) -- those of this batch may have expired since they were counted
  total = redis.call('HGET', KEYS[4], '*')
end
total = tonumber(total or '0') or 0

local most = tonumber(ARGV[7])
local function keep(group, sample, far, payload)
  if redis.call('HEXISTS', KEYS[2], 'g:' .. group) == 1 then return 'answered', 0 end
  local field = group .. ':' .. sample
  local before = redis.call('HSTRLEN', KEYS[3], field)
  if payload == '' then
    redis.call('HDEL', KEYS[3], field, field .. ':tokens')
    return 'kept', -before
  end
  local reached = redis.call('HGET', KEYS[3], field .. ':tokens')
  local is_further = far == 'finished' or not reached or tonumber(far) > (tonumber(reached) or -1)
  if reached == 'finished' or not is_further then return 'kept', 0 end
  if most > 0 and total + #payload - before > most then return 'over', 0 end
  redis.call('HSET', KEYS[3], field, payload, field .. ':tokens', far)
  local samples = tonumber(redis.call('HGET', KEYS[3], group) or '0') or 0
  if samples <= tonumber(sample) then redis.call('HSET', KEYS[3], group, sample + 1) end
  return 'kept', #payload - before
end

local outcomes, grown = {}, 0
for at = 8, #ARGV, 4 do
  local outcome, by = keep(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  outcomes[#outcomes + 1] = outcome
  grown, total = grown + by, total + by
end
if grown ~= 0 or there > 0 then count_parts(KEYS[3], KEYS[4], ARGV[5], grown) end
for _, key in ipairs({KEYS[3], KEYS[4]}) do -- never sooner than was said: samples that wait for others stay longer
  if redis.call('TTL', key) < tonumber(ARGV[6]) then redis.call('EXPIRE', key, ARGV[6]) end
end
return outcomes
