-- Take the jobs of one lost worker, at most `limit` of them, and make them wait at the head again.
--
-- ARGV: prefix, me, first token, lease (ms), limit, max_losses, ttl (s) of jobs aborted here, records kept of those.
--   Then, where not anybody's but one worker's jobs are meant because its process has ended: its name among the leases,
--   and the moment (ms) at which its lease would lapse, as it stood when that was first seen.
-- Answer: jobs taken, 1 if there may be more now, ms until it is worth asking again, the name of the lost worker ('' for
--   none), and as lengths and bytes of id, document, …: jobs that were lost too often. Those are claimed by `me` now,
--   under the tokens from the first on, to be failed. Last, 1 if the worker had stopped, and left what it could not end:
--   no loss is counted then, and only what must not be started twice is to be failed.
-- What has been aborted meanwhile is finished as aborted.

local me, first, lease, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local max_losses, ttl, keep = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local ended_worker, ended_lease = ARGV[9], tonumber(ARGV[10])
if not (me and first and lease and limit and max_losses and ttl and keep) or limit < 1 or limit > LIMIT
  or (ended_worker and not ended_lease) then
  return reject('recover: wrong arguments')
end
local leases, now = prefix .. 'leases', now_ms()
beat(now, lease)

local lost
if ended_worker then
  -- The guard does not hold here: it protects those of whom only silence is known, because an outage of the server
  -- silences everybody. The end of a process was seen on its machine. Who has renewed since then was mistaken for it.
  local moment = call('ZSCORE', leases, ended_worker)
  if not moment then forget_process(ended_worker) end
  if not call('ZSCORE', leases, me) or not moment or tonumber(moment) ~= ended_lease then
    return {0, 0, 0, '', '', '', 0}
  end
  call('ZADD', leases, now + lease, me)
  lost = ended_worker
else
  if call('EXISTS', prefix .. 'parked') == 1 then binding().mend(now) end
  local guard = call('PTTL', prefix .. 'guard')
  if guard > 0 then return {0, 0, guard, '', '', '', 0} end
  if not call('ZSCORE', leases, me) then return {0, 0, lease, '', '', '', 0} end
  call('ZADD', leases, now + lease, me)
  local oldest = call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  if tonumber(oldest[2]) > now then
    -- A blocking read that was sent before its worker was lost may arrive long after (a network that heals).
    call('ZREMRANGEBYSCORE', prefix .. 'graves', '-inf', now - 3600000)
    for _, grave in ipairs(call('ZRANGE', prefix .. 'graves', 0, LIMIT - 1)) do return_inbox(grave) end
    return {0, 0, tonumber(oldest[2]) - now, '', '', '', 0}
  end
  lost = oldest[1]
end

local left = call('SISMEMBER', prefix .. 'left', lost) == 1
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
    local last
    if left then
      last = limits and limits[k] == '1'
    else
      last = call('HINCRBY', prefix .. 'losses', id, 1) >= (limits and tonumber(limits[k]) or max_losses)
    end
    if last then
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
return {#ids, (ended_worker and #ids < limit) and 0 or 1, 0, name, lengths, bytes, left and 1 or 0}
