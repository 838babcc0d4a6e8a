-- Give up a lease: its jobs wait at the head again, and no loss is counted.
--
-- ARGV: prefix, incarnation, limit, then the tokens of jobs whose code cannot be stopped and runs on until the process
--   has ended.
-- Answer: jobs handed back, 1 if there are more.
-- Those, and jobs that must not be started twice, stay claimed under a lease that is marked as left: whoever recovers it
-- counts no loss. With the former it is to be renewed for as long as they run; without any it ends now.

local inc, limit = ARGV[2], tonumber(ARGV[3])
if not tonumber(inc) or not limit or limit < 1 or limit > LIMIT then return reject('release: wrong arguments') end
local running = {}
for k = 4, #ARGV do
  if not tonumber(ARGV[k]) then return reject('release: token ' .. (k - 3) .. ' is no number') end
  running[tonumber(ARGV[k])] = true
end
local leases, now = prefix .. 'leases', now_ms()
local low, high = claims_of(tonumber(inc))
local claims = call('ZRANGEBYSCORE', incomplete, low, high, 'WITHSCORES', 'LIMIT', 0, limit)
local ids = {}
for k = 1, #claims, 2 do ids[#ids + 1] = claims[k] end
local limits, back = exceptions('max_losses', ids), {}
for k = 1, #ids do
  if not running[-tonumber(claims[2 * k])] and not (limits and limits[k] == '1') then
    back[#back + 1] = ids[k]
    mark(ids[k], QUEUED)
  end
end
to_head(back)
if #back > 0 and #ids == limit then return {#back, 1} end
local stays = call('ZCOUNT', incomplete, low, high) > 0
for _, holder in ipairs(call('ZRANGE', leases, 0, -1)) do
  if string.match(holder, '^(%d+):') == inc then
    if stays then
      call('SADD', prefix .. 'left', holder)
      if not next(running) then call('ZADD', leases, now, holder) end
    else
      bury(inc, holder, now)
    end
  end
end
return_inbox(inc)
return {#back, 0}
