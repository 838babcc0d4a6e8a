-- Change fields of a stored job that has not ended; what a stock tool means by "update".
--
-- ARGV: prefix, id, fields (the inside of a JSON object). Answer: 1, or 0 for a job that has ended or never was.

local id, fields = ARGV[2], ARGV[3]
if not id or not fields or fields == '' then return reject('patch: wrong arguments') end
local state = call('ZSCORE', incomplete, id)
if not state or not mark(id, fields) then return 0 end
call('PUBLISH', id, tonumber(state) < 0 and 'active' or 'queued')
return 1
