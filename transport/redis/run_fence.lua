-- The fence of a trainer's run: only the trainer that opened it last may write through it. It is put before each script
-- that calls it.
--
-- Returns nil to the opening that has the run, by its token, else what the script is to return: {'taken', epoch, holder,
-- time of the taking}, with empty texts for what is not there.
local function taken(run, token)
  if redis.call('HGET', run, 'token') == token then return nil end
  local now = redis.call('HMGET', run, 'epoch', 'holder', 'taken_at')
  return {'taken', now[1] or '', now[2] or '', now[3] or ''}
end

