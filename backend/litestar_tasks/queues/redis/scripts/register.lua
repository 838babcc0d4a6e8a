-- Begin a lease under a new incarnation number.
--
-- ARGV: prefix, uuid, lease (ms), worker id, and where they are known: the machine, and the worker's process on it, by
--   which other workers of that machine see that it has ended.
-- Answer: the number.
-- It is above every number that a lease or a claim knows, so that a counter which went back in time (a server restored
-- from an older copy) cannot give two workers the same tokens.

local uuid, lease, worker, machine, process = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
if not uuid or uuid == '' or not worker or not lease or lease <= 0 then return reject('register: wrong arguments') end
if machine and (machine == '' or not process or process == '') then return reject('register: a machine without a process') end
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
if machine then
  call('HSET', prefix .. 'machines', holder, machine)
  call('HSET', prefix .. 'machine:' .. machine, holder, process)
end
beat(now, lease)
return highest
