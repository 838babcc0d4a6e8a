-- Forget some of the jobs that wait, with their records: first those that are queued, from the head of their lanes.
--
-- ARGV: prefix, limit, whether to answer with records ('1' or '').
-- Answer: how many were forgotten, how many entries were looked at, 0 at the end, and the records.

local limit = tonumber(ARGV[2])
if not limit or limit < 1 or limit > LIMIT then return reject('purge: wrong arguments') end
local ids, looked = {}, 0
local lanes = call('ZRANGE', prefix .. 'lanes', 0, -1)
lanes[#lanes + 1] = '0'
for _, lane in ipairs(lanes) do
  local popped = call('LPOP', lane == '0' and queued or queued .. ':' .. lane, limit - looked)
  if popped then
    looked = looked + #popped
    local states, seen = call('ZMSCORE', incomplete, unpack(popped)), {}
    for k = 1, #popped do
      if states[k] == '0' and not seen[popped[k]] then
        seen[popped[k]] = true
        ids[#ids + 1] = popped[k]
      end
    end
  end
  if looked == limit then break end
  if lane ~= '0' then call('ZREM', prefix .. 'lanes', lane) end
end
if looked == 0 then
  -- Those that wait for their time, and what a worker has been woken for and not claimed yet.
  ids = call('ZRANGEBYSCORE', incomplete, 0, '+inf', 'LIMIT', 0, limit)
  looked = #ids
end
local documents = {}
if #ids > 0 then
  if ARGV[3] == '1' then documents = call('MGET', unpack(ids)) end
  call('ZREM', incomplete, unpack(ids))
  call('UNLINK', unpack(ids))
  leave_retrying(ids)
  for _, name in ipairs({'aborts', 'losses', 'prio', 'max_losses', 'follows'}) do forget(name, ids) end
  unbind(ids)
  for k = 1, #ids do call('PUBLISH', ids[k], 'aborted') end
end
return {#ids, looked, documents}
