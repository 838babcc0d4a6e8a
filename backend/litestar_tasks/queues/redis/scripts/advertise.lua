-- Say that a worker of a release lives, or has stopped, and find the youngest release of which one lives.
--
-- `sched:releases` holds when each release was first seen, `sched:live` until when each worker of it counts as alive.
-- ARGV: prefix, the worker's name, the release's digest ('' if it has stopped), ms until it counts as gone.
-- Answer: the digest of the youngest release; '' if none lives.

local holder, digest, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])
if not holder or holder == '' or not digest or not lease then return reject('advertise: wrong arguments') end
local now, FORGET = now_ms(), 3600000
local releases, live = prefix .. 'sched:releases', prefix .. 'sched:live'
if digest == '' then
  for _, member in ipairs(call('ZRANGE', live, 0, -1)) do
    if string.sub(member, 1, #holder + 1) == holder .. ' ' then call('ZADD', live, integer(now - 1), member) end
  end
else
  call('ZADD', live, integer(now + lease), holder .. ' ' .. digest)
  call('HSETNX', releases, digest, integer(now))
end
call('ZREMRANGEBYSCORE', live, '-inf', '(' .. integer(now - FORGET))
local known, lives = {}, {}
local members = call('ZRANGE', live, 0, -1, 'WITHSCORES')
for k = 1, #members, 2 do
  local its = string.match(members[k], ' (.*)$') or ''
  known[its] = true
  if tonumber(members[k + 1]) > now then lives[its] = true end
end
local winner, youngest = '', -1
local seen = call('HGETALL', releases)
for k = 1, #seen, 2 do
  local its, first = seen[k], tonumber(seen[k + 1])
  if not known[its] then
    call('HDEL', releases, its)
  elseif lives[its] and (first > youngest or (first == youngest and its > winner)) then
    winner, youngest = its, first
  end
end
return winner
