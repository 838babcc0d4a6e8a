-- Hold a running job again whose state somebody removed, which is what SAQ's own `abort` does, and end it as it wishes.
--
-- ARGV: prefix, id, token, reason (as JSON), holder. Answer: 1, or 0 where that is not what happened.

local id, token, reason, holder = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
if not id or not token or not reason or not holder then return reject('refence: wrong arguments') end
if call('ZSCORE', incomplete, id) or not call('ZSCORE', prefix .. 'leases', holder) then return 0 end
if call('EXISTS', id) == 0 then return 0 end
call('ZADD', incomplete, integer(-token), id)
call('HSET', prefix .. 'aborts', id, reason)
return 1
