-- What of the queue's schedules is due.
--
-- ARGV: prefix, how many at the most.
-- Answer: now (ms), when the next one is due that is not yet ('' for never), then id and document of each that is due.

local limit = tonumber(ARGV[2])
if not limit or limit < 0 or limit > LIMIT then return reject('look: wrong arguments') end
local now, moments = now_ms(), prefix .. 'sched:next'
local first = call('ZRANGEBYSCORE', moments, '(' .. integer(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local answer = {integer(now), first[2] or ''}
if limit == 0 then return answer end
local due = call('ZRANGEBYSCORE', moments, '-inf', integer(now), 'LIMIT', 0, limit)
if #due == 0 then return answer end
local documents = call('HMGET', prefix .. 'sched:spec', unpack(due))
for k = 1, #due do
  if documents[k] then
    answer[#answer + 1] = due[k]
    answer[#answer + 1] = documents[k]
  else
    call('ZREM', moments, due[k])
  end
end
return answer
