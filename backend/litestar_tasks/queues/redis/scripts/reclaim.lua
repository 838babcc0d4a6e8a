-- Hand back the claims of a token range whose answer never arrived: nobody knows of them, nobody runs them.
--
-- ARGV: prefix, first token, last token. Answer: how many there were.

local first, last = tonumber(ARGV[2]), tonumber(ARGV[3])
if not first or not last or last < first or last - first >= LIMIT then return reject('reclaim: wrong arguments') end
local ids = call('ZRANGEBYSCORE', incomplete, integer(-last), integer(-first))
for _, id in ipairs(ids) do mark(id, QUEUED) end
to_head(ids)
return #ids
