-- Forget jobs that have ended, with their records.
--
-- ARGV: prefix, set, then for each job: id and its score in the set (set '': whichever way it ended).
-- Answer: for each job 1, or 0 where it has not ended, is not there, or has ended anew.

local name, count = ARGV[2], (#ARGV - 2) / 2
if not name or count < 1 or count > LIMIT or count ~= math.floor(count) then return reject('delete: wrong arguments') end
local answer, gone = {}, {}
for k = 1, count do
  local id, score = ARGV[1 + 2 * k], ARGV[2 + 2 * k]
  local same = name == '' or call('ZSCORE', prefix .. name, id) == score
  answer[k] = same and not call('ZSCORE', incomplete, id) and call('UNLINK', id) or 0
  if answer[k] == 1 then gone[#gone + 1] = id end
end
leave_ended(gone)
return answer
