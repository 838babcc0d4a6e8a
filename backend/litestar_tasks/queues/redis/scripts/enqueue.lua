-- Store new jobs, in order.
--
-- ARGV: prefix, then for each job: id, document, moment (ms; 0 or past: now), priority, max_losses (0: the queue's), mode.
-- Mode 'new' refuses the id of a job that is not finished; 'once' also one whose record is still there. 'again:<ms>' is
-- a job of that moment that may have been stored by an earlier call, and may have run since: it refuses its own record,
-- and not that of an earlier job of the same id.
-- Answer: 1 if all were stored, or else for each job 1, or the document that stands in its way ('' where there is none).

local STRIDE = 6
local count = (#ARGV - 1) / STRIDE
if count < 1 or count > LIMIT or count ~= math.floor(count) then return reject('enqueue: wrong number of arguments') end
local ids = {}
for k = 1, count do
  local at = 2 + (k - 1) * STRIDE
  local id, moment, priority, losses, mode = ARGV[at], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5]
  if id == '' or not moment or not losses or losses < 0 then return reject('enqueue: job ' .. k .. ' is malformed') end
  if not priority or priority ~= math.floor(priority) then return reject('enqueue: job ' .. k .. ' has no whole priority') end
  if mode ~= 'new' and mode ~= 'once' and not string.match(mode or '', '^again:%d+$') then return reject('enqueue: job ' .. k .. ' has no mode') end
  ids[k] = id
end

-- Whether the record of a finished job stands in the way of a job of its id.
local function stands(id, mode)
  if mode == 'new' or mode == 'once' then return mode == 'once' end
  return string.find(call('GET', id), '"queued":' .. string.sub(mode, 7), 1, true) ~= nil
end

local states = call('ZMSCORE', incomplete, unpack(ids))
local some_exist = call('EXISTS', unpack(ids)) > 0
local now = now_ms()
local answer, seen, documents, entries, ready, reborn = {}, {}, {}, {}, {}, {}
local bell = false
for k = 1, count do
  local at, id = 2 + (k - 1) * STRIDE, ids[k]
  local exists = some_exist and call('EXISTS', id) == 1
  if states[k] or seen[id] or (exists and stands(id, ARGV[at + 5])) then
    answer[k] = false
  else
    seen[id], answer[k] = true, 1
    if exists then reborn[#reborn + 1] = id end
    documents[#documents + 1] = id
    documents[#documents + 1] = ARGV[at + 1]
    local moment = tonumber(ARGV[at + 2])
    if moment > now then
      entries[#entries + 1] = due_score(moment)
      if moment - now < SLEEP then bell = true end
    else
      entries[#entries + 1] = 0
      ready[#ready + 1] = id
    end
    entries[#entries + 1] = id
    if tonumber(ARGV[at + 3]) ~= 0 then call('HSET', prefix .. 'prio', id, integer(tonumber(ARGV[at + 3]))) end
    if tonumber(ARGV[at + 4]) ~= 0 then call('HSET', prefix .. 'max_losses', id, integer(tonumber(ARGV[at + 4]))) end
  end
end
if #documents > 0 then
  call('MSET', unpack(documents))
  call('ZADD', incomplete, unpack(entries))
  push('RPUSH', ready)
  if bell then ring() end
end
leave_ended(reborn)
if #documents == 2 * count then return 1 end
for k = 1, count do
  if not answer[k] then answer[k] = call('GET', ids[k]) or '' end
end
return answer
