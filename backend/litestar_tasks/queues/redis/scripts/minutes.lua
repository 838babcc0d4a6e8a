-- What was counted in some minutes, added up by so many of them. What comes of each such span is one packed map of
-- fields and numbers: as one answer for each field, which are thousands where many tasks run, they would keep whoever
-- reads them busy for long.
--
-- ARGV: prefix, the first minute (since the epoch) and the last, how many make a span, fields that are enough.
-- Answer: the minute to go on from, then over and over the first minute of a span and its map. A span that the call
--   broke off in the midst of comes once more, with the rest of it.

local minute, last, every, enough = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if #ARGV ~= 5 or not (minute and last and every and enough) or every < 1 or last - minute > 10 * LIMIT then
  return reject('minutes: wrong arguments')
end
local found, read = {0}, 0
while minute <= last and read < enough do
  local start, sums = minute - minute % every, {}
  repeat
    local fields = call('HGETALL', prefix .. 'm:' .. integer(minute))
    for k = 1, #fields, 2 do
      sums[fields[k]] = (sums[fields[k]] or 0) + (tonumber(fields[k + 1]) or 0)
    end
    read, minute = read + #fields / 2, minute + 1
  until minute > last or minute % every == 0 or read >= enough
  if next(sums) then
    found[#found + 1] = start
    found[#found + 1] = cmsgpack.pack(sums)
  end
end
found[1] = minute
return found
