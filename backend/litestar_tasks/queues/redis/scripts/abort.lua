-- End a job: one that waits at once, one that runs by asking its worker. The same effort however long the queue is: the
-- id of a waiting job stays in its list, without a state, and is skipped when its turn comes.
--
-- ARGV: prefix, id, reason (as JSON), ttl (s) of the record, records kept.
-- Answer: 0 it has ended or never was, 1 aborted, 2 its worker was asked.

local id, reason, ttl, keep = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if not (id and reason and ttl and keep) or id == '' or reason == '' then return reject('abort: wrong arguments') end
local state = tonumber(call('ZSCORE', incomplete, id) or nil)
if not state then return 0 end
if state < 0 then
  call('HSET', prefix .. 'aborts', id, reason)
  call('PUBLISH', prefix .. 'ctl', 'abort ' .. integer(-state) .. ' ' .. reason)
  return 2
end
abort_all({id}, {reason}, now_ms(), ttl, keep)
return 1
