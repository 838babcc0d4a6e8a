-- Give up a lease: its jobs wait at the head again, and no loss is counted.
--
-- ARGV: prefix, incarnation, limit. Answer: jobs handed back, 1 if there are more.
-- Jobs that must not be started twice stay claimed, and the lease ends now: recovery fails them.

local inc, limit = ARGV[2], tonumber(ARGV[3])
if not tonumber(inc) or not limit or limit < 1 or limit > LIMIT then return reject('release: wrong arguments') end
local leases, now = prefix .. 'leases', now_ms()
local low, high = claims_of(tonumber(inc))
local once = call('EXISTS', prefix .. 'max_losses') == 1
local ids = call('ZRANGEBYSCORE', incomplete, low, high, 'LIMIT', 0, limit)
local limits, back = exceptions('max_losses', ids), {}
for k = 1, #ids do
  if not (limits and limits[k] == '1') then
    back[#back + 1] = ids[k]
    mark(ids[k], QUEUED)
  end
end
to_head(back)
if #back > 0 and #ids == limit then return {#back, 1} end
for _, holder in ipairs(call('ZRANGE', leases, 0, -1)) do
  if string.match(holder, '^(%d+):') == inc then
    if once and call('ZCOUNT', incomplete, low, high) > 0 then
      call('ZADD', leases, now, holder)
    else
      bury(inc, holder, now)
    end
  end
end
return_inbox(inc)
return {#back, 0}
