-- End jobs: those that wait at once, those that run by asking their worker. The same effort however long the queue is:
-- the id of a waiting job stays in its list, without a state, and is skipped when its turn comes.
--
-- ARGV: prefix, reason (as JSON), ttl (s) of the records, records kept, then for each job: id, and the state that it is
--   to be in ('' for any).
-- Answer: for each job 0 it has ended, never was or is in another state, 1 aborted, 2 its worker was asked.

local STRIDE, HEADER = 2, 4
local reason, ttl, keep, count = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), (#ARGV - HEADER) / STRIDE
if not (reason and ttl and keep) or reason == '' or count < 1 or count > LIMIT or count ~= math.floor(count) then
  return reject('abort: wrong arguments')
end
for k = 1, count do
  if ARGV[HEADER + STRIDE * k - 1] == '' then return reject('abort: wrong arguments') end
end
local answer, ended, reasons, now = {}, {}, {}, now_ms()
for k = 1, count do
  local id, expected = ARGV[HEADER + STRIDE * k - 1], ARGV[HEADER + STRIDE * k]
  local state = call('ZSCORE', incomplete, id)
  if not state or expected ~= '' and expected ~= state then
    answer[k] = 0
  elseif tonumber(state) < 0 then
    call('HSET', prefix .. 'aborts', id, reason)
    call('PUBLISH', prefix .. 'ctl', 'abort ' .. integer(-tonumber(state)) .. ' ' .. reason)
    answer[k] = 2
  else
    ended[#ended + 1], reasons[#reasons + 1] = id, reason
    answer[k] = 1
  end
end
abort_all(ended, reasons, now, ttl, keep)
return answer
