-- Replace the document of a schedule, if it is the one that was seen, and enqueue a job with it. `enqueue` is the script
-- of that name.
--
-- ARGV: prefix, id, the document that was seen ('' for none), the new one ('' to remove it), when it is due (ms; '' for
-- not at all), then nothing, or a job as `enqueue` takes it.
-- Answer: 1 if the new document stands there now, or has stood there before; 0 if another one does.

local id, seen, new, due = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not due or id == '' or (due ~= '' and not tonumber(due)) then return reject('fire: wrong arguments') end
local specs, moments = prefix .. 'sched:spec', prefix .. 'sched:next'
local stands = call('HGET', specs, id) or ''
if stands ~= seen then return stands == new and 1 or 0 end
if #ARGV > 5 then
  local answer = enqueue({prefix, unpack(ARGV, 6)})
  if type(answer) == 'table' and answer.err then return answer end
end
if new == '' then
  call('HDEL', specs, id)
else
  call('HSET', specs, id, new)
end
if new == '' or due == '' then
  call('ZREM', moments, id)
else
  call('ZADD', moments, integer(tonumber(due)), id)
end
return 1
