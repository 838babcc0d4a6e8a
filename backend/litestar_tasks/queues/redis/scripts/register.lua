-- Begin a lease under a new incarnation number.
--
-- ARGV: prefix, uuid, lease (ms), worker id. Answer: the number.
-- It is above every number that a lease or a claim knows, so that a counter which went back in time (a server restored
-- from an older copy) cannot give two workers the same tokens.

local uuid, lease, worker = ARGV[2], tonumber(ARGV[3]), ARGV[4]
if not uuid or uuid == '' or not worker or not lease or lease <= 0 then return reject('register: wrong arguments') end
local inc = call('INCR', prefix .. 'incs')
local highest = inc
for _, holder in ipairs(call('ZRANGE', prefix .. 'leases', 0, -1)) do
  highest = math.max(highest, (tonumber(string.match(holder, '^%d+')) or 0) + 1)
end
local oldest_claim = call('ZRANGE', incomplete, 0, 0, 'WITHSCORES')
if oldest_claim[2] and tonumber(oldest_claim[2]) < 0 then
  highest = math.max(highest, math.floor(-tonumber(oldest_claim[2]) / TOKENS) + 1)
end
if highest > inc then call('SET', prefix .. 'incs', integer(highest)) end
local now = now_ms()
local holder = integer(highest) .. ':' .. uuid
call('ZADD', prefix .. 'leases', now + lease, holder)
call('HSET', prefix .. 'workers', holder, worker)
beat(now, lease)
return highest
