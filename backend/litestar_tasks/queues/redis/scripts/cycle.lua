-- One turn of a worker: settle what ended, then claim what there is room for.
--
-- ARGV: prefix, me ("<incarnation>:<uuid>"), want, first token, worker id (as JSON), lease (ms; 0: do not renew now),
--   records kept of complete and of other jobs, ttl (s) of jobs aborted here, then for each operation:
--   kind, id, token, document, number.
-- Number: for retry and snooze the delay in ms; for what ends the job the ttl of its record in seconds (0: for ever,
--   negative: not in the index).
-- Answer: two texts. Numbers: state, now (ms), ms until the next waiting job is due (-1: none), documents that were
--   missing, how many operations were refused and which, and the lengths of what the second one holds: of each claimed
--   job its id and document.
-- State: -1 the lease is gone, 0 nothing was asked, 1 there may be more, 2 paused, 3 the queue is empty now.

local HEADER, STRIDE = 9, 5
local me, want, first, worker = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local lease, keep, keep_failed, abort_ttl = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local inc = string.match(me or '', '^(%d+):')
local count = (#ARGV - HEADER) / STRIDE
if not (inc and want and first and lease and keep and keep_failed and abort_ttl) or want < 0 or want > LIMIT
  or count < 0 or count > LIMIT or count ~= math.floor(count) then
  return reject('cycle: wrong arguments')
end
local ENDS = {complete = 'complete', failed = 'failed', aborted = 'aborted', quarantined = 'failed'}
local BACK = {retry = true, snooze = true, hand_back = true}

-- Whether a state is that of a claim. They are nearly always spelled alike, which is found out faster.
local function is_held(state, token)
  return state and (state == '-' .. token or tonumber(state) == -tonumber(token))
end

local ids = {}
for k = 1, count do
  local at = HEADER + 1 + (k - 1) * STRIDE
  local kind = ARGV[at]
  if not (ENDS[kind] or BACK[kind] or kind == 'update') then return reject('cycle: operation ' .. k .. ' is of no known kind') end
  if not tonumber(ARGV[at + 2]) or not tonumber(ARGV[at + 4]) then return reject('cycle: operation ' .. k .. ' has no number') end
  ids[k] = ARGV[at + 1]
end

-- First of all a write that a full server allows. From then on it lets the script finish: workers can settle, and so
-- make room, while enqueueing is refused.
call('UNLINK', prefix .. 'inbox:')
local now = now_ms()
local refused, bell = {}, false

if count > 0 then
  local states = call('ZMSCORE', incomplete, unpack(ids))
  local aborts = exceptions('aborts', ids)
  local ended, by_status = {}, {complete = {}, failed = {}, aborted = {}, quarantined = {}}
  local head, tail, entries, again = {}, {}, {}, {}
  local settled, later = {}, {}
  for k = 1, count do
    local at, id = HEADER + 1 + (k - 1) * STRIDE, ids[k]
    local kind, document, number = ARGV[at], ARGV[at + 3], tonumber(ARGV[at + 4])
    if settled[id] or not is_held(states[k], ARGV[at + 2]) then
      refused[#refused + 1] = k
    elseif ENDS[kind] then
      settled[id] = true
      ended[#ended + 1] = id
      if number == 0 then
        call('SET', id, document)
      else
        call('SET', id, document, 'EX', math.abs(number))
      end
      if number >= 0 then
        table.insert(by_status[ENDS[kind]], id)
        if kind == 'quarantined' then table.insert(by_status.quarantined, id) end
      end
      call('PUBLISH', id, ENDS[kind])
    elseif kind == 'update' then
      call('SET', id, document)
      call('PUBLISH', id, 'active')
    elseif aborts and aborts[k] then
      -- Somebody wants it ended, and it does not run any more.
      settled[id] = true
      call('SET', id, document)
      abort_all({id}, {aborts[k]}, now, abort_ttl, keep_failed)
    else
      settled[id] = true
      call('SET', id, document)
      if kind == 'hand_back' then
        head[#head + 1] = id
      else
        later[#later + 1] = id
        if number > 0 then
          entries[#entries + 1] = due_score(now + number)
          if kind == 'retry' then
            again[#again + 1] = entries[#entries]
            again[#again + 1] = id
          end
          if number < SLEEP then bell = true end
        else
          entries[#entries + 1] = 0
          tail[#tail + 1] = id
        end
        entries[#entries + 1] = id
        call('PUBLISH', id, 'queued')
      end
    end
  end
  if #ended > 0 then
    call('ZREM', incomplete, unpack(ended))
    owe(ended)
    forget_all({'aborts', 'losses', 'prio', 'max_losses'}, ended)
    unbind(ended)
    for _, id in ipairs(by_status.quarantined) do call('ZADD', prefix .. 'quarantined', now, id) end
    index('complete', by_status.complete, now, keep)
    index('failed', by_status.failed, now, keep_failed)
    index('aborted', by_status.aborted, now, keep_failed)
  end
  if #entries > 0 then call('ZADD', incomplete, unpack(entries)) end
  if #again > 0 then call('ZADD', prefix .. 'retrying', unpack(again)) end
  local waiting = exceptions('bonds', later)
  if waiting then binding().stand_back(later, waiting) end
  push('RPUSH', tail)
  if #head > 0 then
    local newest_first = {}
    for k = #head, 1, -1 do newest_first[#newest_first + 1] = head[k] end
    to_head(newest_first)
  end
  if bell then ring() end
end

return_inbox(inc)

local function answer(state, wait, orphans, texts)
  local lengths, bytes = packed(texts or {})
  local numbers = {state, integer(now), integer(wait or -1), orphans or 0, #refused}
  for k = 1, #refused do numbers[#numbers + 1] = refused[k] end
  numbers[#numbers + 1] = lengths
  return {table.concat(numbers, ' '), bytes}
end

-- Claims are given only to who holds a lease, so that there is none that nobody would recover.
if not call('ZSCORE', prefix .. 'leases', me) then return answer(-1) end
if lease > 0 then call('ZADD', prefix .. 'leases', now + lease, me) end
if want == 0 then return answer(0) end
if call('EXISTS', prefix .. 'paused') == 1 then return answer(2) end

move_due(now)

local claimed, seen, popped = {}, {}, 0
-- Take from one lane what is still queued; ids of jobs that were aborted or taken otherwise, and bells, are skipped.
-- True when the lane is empty.
local function take(key)
  while #claimed < want and popped < 500 do
    local wanted = want - #claimed
    local heads = call('LPOP', key, wanted)
    if not heads then return true end
    popped = popped + #heads
    local states, bonds = call('ZMSCORE', incomplete, unpack(heads)), exceptions('bonds', heads)
    for k = 1, #heads do
      if states[k] == '0' and not seen[heads[k]] then
        seen[heads[k]] = true
        if not (bonds and bonds[k]) or binding().admit(heads[k], bonds[k]) then claimed[#claimed + 1] = heads[k] end
      elseif not states[k] and bonds and bonds[k] then
        unbind({heads[k]})  -- a stock tool took it out
      end
    end
    if #heads < wanted then return true end
  end
  return false
end

local lanes = call('ZRANGE', prefix .. 'lanes', 0, -1)
local middle = false
for _, lane in ipairs(lanes) do
  if not middle and tonumber(lane) > 0 then
    middle = true
    take(queued)
  end
  if take(queued .. ':' .. lane) then call('ZREM', prefix .. 'lanes', lane) end
end
if not middle then take(queued) end
-- The bell of a settle above may have been taken from the list just now.
if bell or #lanes > 0 and call('EXISTS', prefix .. 'lanes') == 1 then ring() end

local wait = -1
if #claimed < want then
  local next_one = call('ZRANGEBYSCORE', incomplete, 1, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if next_one[2] then wait = math.max(0, math.ceil(tonumber(next_one[2]) * 1000 - now)) end
end
local state = (#claimed == want or popped >= 500) and 1 or 3
if #claimed == 0 then return answer(state, wait) end

local documents = call('MGET', unpack(claimed))
local fields = ',"status":"active","started":' .. integer(now) .. ',"worker_id":' .. worker .. '}'
local entries, texts, orphans = {}, {}, {}
for k = 1, #claimed do
  local id, document = claimed[k], documents[k]
  if document then
    entries[#entries + 1] = integer(-(first + #texts / 2))
    entries[#entries + 1] = id
    texts[#texts + 1] = id
    texts[#texts + 1] = document
    if string.byte(document, -1) == 125 and #document > 2 then call('SETRANGE', id, #document - 1, fields) end
  else
    orphans[#orphans + 1] = id
  end
end
if #entries > 0 then call('ZADD', incomplete, unpack(entries)) end
if #orphans > 0 then
  call('ZREM', incomplete, unpack(orphans))
  forget_all({'losses', 'prio', 'max_losses', 'follows'}, orphans)
  unbind(orphans)
end
return answer(state, wait, #orphans, texts)
