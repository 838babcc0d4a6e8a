-- Take the jobs of one lost worker, at most `limit` of them, and make them wait at the head again.
--
-- ARGV: prefix, me, first token, lease (ms), limit, max_losses, ttl (s) of jobs aborted here, records kept of those.
-- Answer: jobs taken, 1 if there may be more now, ms until it is worth asking again, the name of the lost worker ('' for none), and
--   as lengths and bytes of id, document, …: jobs that were lost too often. Those are claimed by `me` now, under the
--   tokens from the first on, to be failed.
-- What has been aborted meanwhile is finished as aborted.

local me, first, lease, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local max_losses, ttl, keep = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if not (me and first and lease and limit and max_losses and ttl and keep) or limit < 1 or limit > LIMIT then
  return reject('recover: wrong arguments')
end
local leases, now = prefix .. 'leases', now_ms()
beat(now, lease)
local guard = call('PTTL', prefix .. 'guard')
if guard > 0 then return {0, 0, guard, '', '', ''} end
if not call('ZSCORE', leases, me) then return {0, 0, lease, '', '', ''} end
call('ZADD', leases, now + lease, me)
local oldest = call('ZRANGE', leases, 0, 0, 'WITHSCORES')
if tonumber(oldest[2]) > now then
  -- A blocking read that was sent before its worker was lost may arrive long after (a network that heals).
  call('ZREMRANGEBYSCORE', prefix .. 'graves', '-inf', now - 3600000)
  for _, grave in ipairs(call('ZRANGE', prefix .. 'graves', 0, LIMIT - 1)) do return_inbox(grave) end
  return {0, 0, tonumber(oldest[2]) - now, '', '', ''}
end

local lost = oldest[1]
local inc = string.match(lost, '^%d+')
local low, high = claims_of(tonumber(inc))
local ids = call('ZRANGEBYSCORE', incomplete, low, high, 'LIMIT', 0, limit)
local aborts, limits = exceptions('aborts', ids), exceptions('max_losses', ids)
local back, texts, entries, ended, reasons = {}, {}, {}, {}, {}
for k = 1, #ids do
  local id = ids[k]
  if aborts and aborts[k] then
    ended[#ended + 1] = id
    reasons[#reasons + 1] = aborts[k]
  else
    local losses = call('HINCRBY', prefix .. 'losses', id, 1)
    if losses >= (limits and tonumber(limits[k]) or max_losses) then
      entries[#entries + 1] = integer(-(first + #texts / 2))
      entries[#entries + 1] = id
      texts[#texts + 1] = id
      texts[#texts + 1] = call('GET', id) or ''
    else
      back[#back + 1] = id
      mark(id, QUEUED)
    end
  end
end
abort_all(ended, reasons, now, ttl, keep)
if #entries > 0 then call('ZADD', incomplete, unpack(entries)) end
to_head(back)
local name = call('HGET', prefix .. 'workers', lost) or lost
if #ids < limit then
  bury(inc, lost, now)
end
local lengths, bytes = packed(texts)
return {#ids, 1, 0, name, lengths, bytes}
