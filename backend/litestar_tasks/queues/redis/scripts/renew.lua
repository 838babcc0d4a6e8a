-- Keep a lease alive, and ask whether somebody wants one of its jobs ended (should the message be lost that said so).
--
-- ARGV: prefix, me, lease (ms), cursor.
-- Answer: 1 or -1 (the lease is gone), number of claims held, next cursor, then id and reason (as JSON) for each job.

local me, lease, cursor = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local inc = tonumber(string.match(me or '', '^(%d+):'))
if not inc or not lease or lease <= 0 or not tonumber(cursor) then return reject('renew: wrong arguments') end
local now = now_ms()
beat(now, lease)
if not call('ZSCORE', prefix .. 'leases', me) then return {-1, 0, '0'} end
call('ZADD', prefix .. 'leases', now + lease, me)
local low, high = claims_of(inc)
local answer = {1, call('ZCOUNT', incomplete, low, high), '0'}
if call('EXISTS', prefix .. 'aborts') == 1 then
  local page = call('HSCAN', prefix .. 'aborts', cursor, 'COUNT', LIMIT)
  answer[3] = page[1]
  for k = 1, #page[2], 2 do
    local token = -tonumber(call('ZSCORE', incomplete, page[2][k]) or 0)
    if math.floor(token / TOKENS) == inc then
      answer[#answer + 1] = page[2][k]
      answer[#answer + 1] = page[2][k + 1]
    end
  end
end
return answer
