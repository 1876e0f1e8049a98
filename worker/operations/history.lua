-- Add what a worker answered since its last addition to the sums of this minute, and to the measured rate. Safe to send
-- again: its report remembers the last addition.
--
-- KEYS[1] report of the worker      KEYS[2] sums of the minute      KEYS[3] rate
-- ARGV[1] name of the addition      ARGV[2] seconds to keep the minute      ARGV[3] seconds to keep the rate
-- ARGV[4] tokens a second that were measured, or nothing      ARGV[5] 1 if the worker was full all the time
-- ARGV[6] completions   ARGV[7] tokens of them   ARGV[8] tokens that they might have had
-- ARGV[9], ARGV[10], ... field, increment, ... of the minute
--
-- Returns 1 when it is added, 0 when the report is gone (nothing was written).
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('HGET', KEYS[1], 'addition') == ARGV[1] then return 1 end
redis.call('HSET', KEYS[1], 'addition', ARGV[1])

for i = 9, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[2])

-- What is new pulls the mean towards it, by its share among itself and what came before.
local function pull(field, value, share)
  local before = tonumber(redis.call('HGET', KEYS[3], field) or '') or value
  redis.call('HSET', KEYS[3], field, string.format('%.6g', before + share * (value - before)))
end

-- Full workers are averaged. Before one was measured, what others did is the least that one can do: only more counts.
local measured, full = tonumber(ARGV[4]), ARGV[5] == '1'
if measured then
  local known = tonumber(redis.call('HGET', KEYS[3], 'tokens_per_s') or '')
  local was_full = redis.call('HGET', KEYS[3], 'full') == '1'
  if full and not was_full then
    redis.call('HSET', KEYS[3], 'full', '1', 'tokens_per_s', string.format('%.6g', measured))
  elseif full or not (was_full or known and measured < known) then
    pull('tokens_per_s', measured, 0.3)
  end
end
local completions = tonumber(ARGV[6])
if completions > 0 then
  local known = tonumber(redis.call('HGET', KEYS[3], 'answers') or '') or 0
  local weight = completions / (completions + math.min(known, 1000))
  pull('mean_length', ARGV[7] / completions, weight)
  if tonumber(ARGV[8]) > 0 then pull('share', ARGV[7] / ARGV[8], weight) end
  redis.call('HINCRBY', KEYS[3], 'answers', completions)
end
redis.call('EXPIRE', KEYS[3], ARGV[3])
return 1
