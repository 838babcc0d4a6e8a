-- Store new jobs, in order.
--
-- ARGV: prefix, owed, then for each job: id, document, moment (ms; 0 or past: now), priority, max_losses (0: the queue's),
-- 1 if others follow it, mode.
-- Owed is '' for what somebody enqueues. Otherwise it names what is owed of a job that has ended, and these jobs are all
-- that follows it into this queue, perhaps none: they are stored only if it is still owed, and it is not any more then.
-- Mode 'new' refuses the id of a job that is not finished; 'once' also one whose record is still there. 'again:<ms>' is
-- a job of that moment that may have been stored by an earlier call, and may have run since: it refuses its own record,
-- and not that of an earlier job of the same id. Behind it, after a space, stand the terms of a job that has any.
-- 'row:new:<row>' and 'row:once:<row>' are the two for a row of an outbox, which is heeded once: that it was is noted
-- beside what was made of it.
-- Answer: 1 if all were stored, or else for each job 1, or the document that stands in its way ('' where there is none),
-- or by its terms the id of the job that stands for it, and that job's document. Nothing where it is not owed.

local STRIDE, HEADER = 7, 2
local WEEK = 604800
local owed, count = ARGV[2], (#ARGV - HEADER) / STRIDE
if not owed or count < 0 or count > LIMIT or count ~= math.floor(count) or count == 0 and owed == '' then
  return reject('enqueue: wrong number of arguments')
end
local ids = {}
local bound, modes, rows  -- of jobs that are bound, come again, or are rows; most calls have none
for k = 1, count do
  local at = HEADER + 1 + (k - 1) * STRIDE
  local id, moment, priority, losses, mode = ARGV[at], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 6]
  if id == '' or not moment or not losses or losses < 0 then return reject('enqueue: job ' .. k .. ' is malformed') end
  if not priority or priority ~= math.floor(priority) then return reject('enqueue: job ' .. k .. ' has no whole priority') end
  if mode ~= 'new' and mode ~= 'once' then
    local first, rest = string.match(mode or '', '^(%S+) (.*)$')
    bound, modes, rows = bound or {}, modes or {}, rows or {}
    mode, bound[k] = first or mode, first and binding().terms_of(rest)
    if first and not bound[k] then return reject('enqueue: job ' .. k .. ' has no terms') end
    local kind, row = string.match(mode or '', '^row:(%a+):(.+)$')
    if kind then mode, rows[k] = kind, prefix .. 'seen:' .. row end
    modes[k] = mode
    if mode ~= 'new' and mode ~= 'once' and not string.match(mode or '', '^again:%d+$') then
      return reject('enqueue: job ' .. k .. ' has no mode')
    end
  end
  ids[k] = id
end

-- Whether the record of a finished job stands in the way of a job of its id.
local function stands(id, mode)
  if mode == 'new' or mode == 'once' then return mode == 'once' end
  return string.find(call('GET', id), '"queued":' .. string.sub(mode, 7), 1, true) ~= nil
end

if owed ~= '' and call('HDEL', prefix .. 'owed', owed) == 0 or count == 0 then return {} end
local states = call('ZMSCORE', incomplete, unpack(ids))
local some_exist = call('EXISTS', unpack(ids)) > 0
local now = now_ms()
local answer, seen, documents, entries, ready, reborn = {}, {}, {}, {}, {}, {}
local bell = false

-- Numbers of a job that differ from the defaults.
local function note(id, priority, losses, follows)
  if priority ~= 0 then call('HSET', prefix .. 'prio', id, integer(priority)) end
  if losses ~= 0 then call('HSET', prefix .. 'max_losses', id, integer(losses)) end
  if follows == '1' then call('HSET', prefix .. 'follows', id, 1) end
end

-- Give a job that waits the document of a later call, and put it off.
local replace = bound and function(id, k, terms, deadline)
  local at = HEADER + 1 + (k - 1) * STRIDE
  local document, moment = ARGV[at + 1], tonumber(ARGV[at + 2])
  if deadline > 0 then moment = math.min(moment, deadline) end
  call('SET', id, document)
  mark(id, '"key":' .. cjson.encode(string.sub(id, #prefix + 5)) .. ',"scheduled":' .. string.format('%.3f', moment / 1000))
  forget('prio', {id})
  forget('max_losses', {id})
  forget('follows', {id})
  note(id, tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5])
  local _, _, group = binding().bond_of(call('HGET', prefix .. 'bonds', id) or '- ')
  if group ~= '' then
    binding().unpark(id, group)
    binding().pass_on(id, group)
  end
  call('HSET', prefix .. 'bonds', id, terms.letter .. terms.lock .. ' ' .. terms.group)
  if moment > now then
    call('ZADD', incomplete, due_score(moment), id)
    if moment - now < SLEEP then bell = true end
  else
    call('ZADD', incomplete, 0, id)
    ready[#ready + 1] = id
  end
  call('PUBLISH', id, 'queued')
end

for k = 1, count do
  local at, id, terms = HEADER + 1 + (k - 1) * STRIDE, ids[k], bound and bound[k]
  local exists = some_exist and call('EXISTS', id) == 1
  local heeded = rows and rows[k] and call('SET', rows[k], 1, 'NX', 'EX', WEEK) == false
  local holder, deadline
  local taken = states[k] or seen[id] or (exists and stands(id, modes and modes[k] or ARGV[at + 6]))
  if terms and not taken and not heeded then holder, deadline = binding().holder_of(terms) end
  if heeded then
    answer[k] = 1
  elseif holder then
    answer[k] = {holder}
    if terms.letter == 'd' and deadline then replace(holder, k, terms, deadline) end
  elseif taken then
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
    note(id, tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5])
    if terms then
      -- Jobs behind it in this call may find it, and put it off: what is written for all of them comes too late.
      call('SET', id, table.remove(documents))
      table.remove(documents)
      table.remove(entries)
      call('ZADD', incomplete, table.remove(entries), id)
      binding().bind(id, terms)
    end
  end
end
if #documents > 0 then
  call('MSET', unpack(documents))
  call('ZADD', incomplete, unpack(entries))
end
push('RPUSH', ready)
if bell then ring() end
leave_ended(reborn)
if #documents == 2 * count then return 1 end
for k = 1, count do
  if not answer[k] then
    answer[k] = call('GET', ids[k]) or ''
  elseif bound and bound[k] and answer[k] ~= 1 then
    answer[k][2] = call('GET', answer[k][1]) or ''
  end
end
return answer
