-- What was counted in some minutes. Each comes as one packed string: as one answer for each of its fields, which are
-- thousands where many tasks run, they would keep whoever reads them busy for long.
--
-- ARGV: prefix, the first minute (since the epoch), how many.

local first, number = tonumber(ARGV[2]), tonumber(ARGV[3])
if #ARGV ~= 3 or not first or not number or number < 1 or number > LIMIT then
  return reject('minutes: wrong arguments')
end
local found = {}
for minute = first, first + number - 1 do
  found[#found + 1] = cmsgpack.pack(call('HGETALL', prefix .. 'm:' .. integer(minute)))
end
return found
