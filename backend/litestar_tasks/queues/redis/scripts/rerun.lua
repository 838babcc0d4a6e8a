-- Give jobs that have ended a new life at the tail, and make those that wait for their next attempt ready now.
--
-- ARGV: prefix, then for each job: id, SHA-1 of the record that the new one was made of ('' for none), new record,
--   priority, max_losses (0: the queue's), 1 if others follow it, terms ('' for none).
-- Answer: for each job 1, or 0 where it does not wait for an attempt and its record is another one by now, or where its
--   lock is another job's.

local STRIDE = 7
local count = (#ARGV - 1) / STRIDE
if count < 1 or count > LIMIT or count ~= math.floor(count) then return reject('rerun: wrong number of arguments') end
for k = 1, count do
  local at = 2 + (k - 1) * STRIDE
  if ARGV[at] == '' or not tonumber(ARGV[at + 3]) or not tonumber(ARGV[at + 4]) then
    return reject('rerun: job ' .. k .. ' is malformed')
  end
  if ARGV[at + 6] ~= '' and not binding().terms_of(ARGV[at + 6]) then return reject('rerun: job ' .. k .. ' has no terms') end
end
local answer, ready, entries, reborn = {}, {}, {}, {}
local taken = {}
for k = 1, count do
  local at = 2 + (k - 1) * STRIDE
  local id, digest, priority, losses = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local state = call('ZSCORE', incomplete, id)
  answer[k] = 0
  if not taken[id] then
    if state then
      answer[k] = call('ZSCORE', prefix .. 'retrying', id) == state and 1 or 0
    elseif digest ~= '' then
      local record = call('GET', id)
      local terms = ARGV[at + 6] ~= '' and binding().terms_of(ARGV[at + 6])
      if record and redis.sha1hex(record) == digest and not (terms and binding().holder_of(terms)) then
        answer[k] = 1
        if terms then
          call('ZADD', incomplete, 0, id)  -- a later one of this call may want the same lock
          binding().bind(id, terms)
        end
        call('SET', id, ARGV[at + 2])
        if priority ~= 0 then call('HSET', prefix .. 'prio', id, integer(priority)) end
        if losses ~= 0 then call('HSET', prefix .. 'max_losses', id, integer(losses)) end
        if ARGV[at + 5] == '1' then call('HSET', prefix .. 'follows', id, 1) end
        reborn[#reborn + 1] = id
      end
    end
  end
  if answer[k] == 1 then
    taken[id] = true
    ready[#ready + 1] = id
    entries[#entries + 1] = 0
    entries[#entries + 1] = id
    call('PUBLISH', id, 'queued')
  end
end
if #ready > 0 then
  call('ZADD', incomplete, unpack(entries))
  leave_retrying(ready)
  leave_ended(reborn)
  push('RPUSH', ready)
end
return answer
