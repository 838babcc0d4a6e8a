-- Add to the counters of some minutes, which are kept for a day.
--
-- ARGV: prefix, then minute (since the epoch), field and number, over and over.

local count = (#ARGV - 1) / 3
if count < 1 or count > 5 * LIMIT or count ~= math.floor(count) then return reject('tally: wrong number of arguments') end
for k = 1, count do
  if not tonumber(ARGV[3 * k - 1]) or not tonumber(ARGV[3 * k + 1]) then return reject('tally: wrong arguments') end
end
local touched = {}
for k = 1, count do
  local minute = integer(tonumber(ARGV[3 * k - 1]))
  call('HINCRBY', prefix .. 'm:' .. minute, ARGV[3 * k], integer(tonumber(ARGV[3 * k + 1])))
  touched[minute] = true
end
for minute in pairs(touched) do
  call('EXPIREAT', prefix .. 'm:' .. minute, integer((tonumber(minute) + 1441) * 60))
end
return count
