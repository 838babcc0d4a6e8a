-- Let nothing be claimed any more, or everything again, and tell the workers.
--
-- ARGV: prefix, who and when (as JSON; '' to resume). Answer: 1 if that changed anything.

local who = ARGV[2]
if not who then return reject('pause: wrong arguments') end
local changed
if who == '' then
  changed = call('DEL', prefix .. 'paused')
else
  changed = call('SETNX', prefix .. 'paused', who)
end
call('PUBLISH', prefix .. 'ctl', who == '' and 'resume' or 'pause')
return changed
