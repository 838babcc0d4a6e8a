-- Take over what stock workers left in SAQ's own list of active jobs, once the last of them is gone.
--
-- ARGV: prefix. Answer: jobs that wait at the head again; -1 while a stock worker reports that it lives.

local active = prefix .. 'active'
if call('LLEN', active) == 0 then return 0 end
local ours = {}
for _, name in ipairs(call('HVALS', prefix .. 'workers')) do ours[prefix .. 'worker_info:' .. name] = true end
for _, name in ipairs(call('ZRANGEBYSCORE', prefix .. 'stats', now_ms(), '+inf')) do
  if not ours[name] then return -1 end
end
local ids = call('LRANGE', active, -LIMIT, -1)
call('LTRIM', active, 0, -LIMIT - 1)
local states, back = call('ZMSCORE', incomplete, unpack(ids)), {}
for k = #ids, 1, -1 do
  if states[k] == '0' then
    back[#back + 1] = ids[k]
    mark(ids[k], QUEUED)
  end
end
to_head(back)
return #back
