-- Count the jobs in each state.
--
-- ARGV: prefix, rank. Answer: 1 if the sets of ended jobs still hold many whose records have expired, then how many are
--   queued, scheduled, retrying, active, complete, failed, aborted and quarantined.
-- A set does not know when records expire, so entries without one are looked for: the oldest, and some at the rank.

local rank = tonumber(ARGV[2])
if not rank then return reject('counts: wrong arguments') end
local due = string.format('%.3f', now_ms() / 1000)
local answer = {
  0,
  call('ZCOUNT', incomplete, '0', due),
  call('ZCOUNT', incomplete, '(' .. due, '+inf'),
  call('ZCOUNT', prefix .. 'retrying', '(' .. due, '+inf'),
  call('ZCOUNT', incomplete, '-inf', '(0'),
}
for _, name in ipairs({'complete', 'failed', 'aborted', 'quarantined'}) do
  local size = call('ZCARD', prefix .. name)
  local function look(from, most)
    local ids, stale = call('ZRANGE', prefix .. name, from, from + most - 1), {}
    for k = 1, #ids do
      if call('EXISTS', ids[k]) == 0 then stale[#stale + 1] = ids[k] end
    end
    drop(name, stale)
    return #stale
  end
  if size > 0 then
    if look(0, 20) == 20 and look(0, 400) == 400 then answer[1] = 1 end
    if size > 100 then look(rank % size, 100) end
    size = call('ZCARD', prefix .. name)
  end
  answer[#answer + 1] = size
end
return answer
