-- What every script shares; it is put in front of each of them.
--
-- KEYS[1] is the queue's `incomplete` set and routes the script; ARGV[1] is the prefix of all its other keys. On a
-- cluster they share one hash tag, the queue's name in braces, and so one slot.
--
-- `incomplete` maps a job's id to its state, in one number:
--   0 queued | >= 1 waits until that moment (seconds) | -token held by the worker that chose the token | absent: settled.
--
-- Lua has no rollback: a script checks its arguments before its first write. Numbers are never put together with `..`,
-- which prints %.14g and so corrupts a token; a document is never decoded, because cjson changes what it cannot hold.

local call = redis.call
local incomplete, prefix = KEYS[1], ARGV[1]
local queued = prefix .. 'queued'

-- While a cluster moves the slot to another node, some of its keys are here and some are there; a script that came upon
-- one of the latter would break off with half of its writes done. A key that is nowhere is refused just then, too.
if string.byte(prefix, 5) == 123 then call('EXISTS', prefix .. 'nowhere') end

-- More than the 200 of one call would block the server for everybody.
local LIMIT = 200
-- Longest sleep of a worker in its blocking read. What becomes due earlier has to wake one.
local SLEEP = 1000

local function reject(what)
  return redis.error_reply('ERR litestar-tasks: ' .. what)
end

local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function integer(value)
  return string.format('%.0f', value)
end

-- The score of a moment. Milliseconds are kept; a score below 1 would say something else.
local function due_score(moment)
  return string.format('%.3f', math.max(moment, 1000) / 1000)
end

-- Incarnation `inc` owns the tokens from inc * 2^27 on, and no others: its claims are a range of scores.
local TOKENS = 134217728
local function claims_of(inc)
  return string.format('(%.0f', -((inc + 1) * TOKENS)), integer(-(inc * TOKENS))
end

-- The fields of `ids` in a hash that holds only exceptions, and is therefore mostly absent: nil then.
local function exceptions(name, ids)
  local key = prefix .. name
  if #ids == 0 or call('EXISTS', key) == 0 then return nil end
  return call('HMGET', key, unpack(ids))
end

local function forget(name, ids)
  local key = prefix .. name
  if #ids > 0 and call('EXISTS', key) == 1 then call('HDEL', key, unpack(ids)) end
end

-- The same for several hashes, nearly always none of which is there.
local function forget_all(names, ids)
  local keys = {}
  for k = 1, #names do keys[k] = prefix .. names[k] end
  if #ids == 0 or call('EXISTS', unpack(keys)) == 0 then return end
  for _, name in ipairs(names) do forget(name, ids) end
end

-- These do not wait for another attempt any more. Most jobs never do, and then there is no such set.
local function leave_retrying(ids)
  local key = prefix .. 'retrying'
  if #ids > 0 and call('EXISTS', key) == 1 then call('ZREM', key, unpack(ids)) end
end

-- Take ids out of the sets of ended jobs.
local function leave_ended(ids)
  if #ids == 0 then return end
  for _, status in ipairs({'complete', 'failed', 'aborted', 'quarantined'}) do
    if call('EXISTS', prefix .. status) == 1 then call('ZREM', prefix .. status, unpack(ids)) end
  end
end

-- Drop entries of a set that stand for nothing any more. What is quarantined has failed, and is in both sets.
local function drop(name, ids)
  if #ids == 0 then return end
  call('ZREM', prefix .. name, unpack(ids))
  if name == 'failed' then call('ZREM', prefix .. 'quarantined', unpack(ids)) end
  if name == 'quarantined' then call('ZREM', prefix .. 'failed', unpack(ids)) end
end

-- Wake a sleeping worker for work that is not in the list it sleeps on. The bell is an id without a state, which
-- every claim skips; where the list holds anything, nobody sleeps.
local function ring()
  if call('LLEN', queued) == 0 then call('RPUSH', queued, '-') end
end

-- Put ids into the lanes of their priorities. `command` is RPUSH for the tail, LPUSH for the head; with LPUSH the
-- last of `ids` becomes the first of its lane.
local function push(command, ids)
  if #ids == 0 then return end
  local priorities = exceptions('prio', ids)
  if not priorities then
    call(command, queued, unpack(ids))
    return
  end
  local lanes, order = {}, {}
  for k = 1, #ids do
    local lane = priorities[k] or '0'
    if not lanes[lane] then
      lanes[lane] = {}
      order[#order + 1] = lane
    end
    table.insert(lanes[lane], ids[k])
  end
  for _, lane in ipairs(order) do
    if lane == '0' then
      call(command, queued, unpack(lanes[lane]))
    else
      call(command, queued .. ':' .. lane, unpack(lanes[lane]))
      call('ZADD', prefix .. 'lanes', lane, lane)
    end
  end
  if not lanes['0'] then ring() end
end

-- Jobs that are due join the tails of their lanes.
local function move_due(now)
  local due = call('ZRANGEBYSCORE', incomplete, 1, string.format('%.3f', now / 1000), 'LIMIT', 0, LIMIT)
  if #due == 0 then return end
  local entries = {}
  for k = 1, #due do
    entries[2 * k - 1] = 0
    entries[2 * k] = due[k]
  end
  call('ZADD', incomplete, unpack(entries))
  leave_retrying(due)
  push('RPUSH', due)
end

-- Make jobs wait for a worker again, at the head. `ids` come newest first, so that the oldest ends up in front.
local function to_head(ids)
  if #ids == 0 then return end
  local states = {}
  for k = 1, #ids do
    states[2 * k - 1] = 0
    states[2 * k] = ids[k]
  end
  call('ZADD', incomplete, unpack(states))
  push('LPUSH', ids)
end

-- Put fields behind those of a stored document, where they win over earlier ones of the same name. Overwriting the
-- closing brace costs the same however long the document is. False where there is nothing to write behind.
local function mark(id, fields)
  local length = call('STRLEN', id)
  if length < 3 or call('GETRANGE', id, -1, -1) ~= '}' then return false end
  call('SETRANGE', id, length - 1, ',' .. fields .. '}')
  return true
end

-- What binds a job beside its priority, and is looked at only where some job is bound at all. `bonds` maps its id to a
-- letter (f: its lock is held until it ends, s: until it starts, d: likewise, and a further call replaces its arguments,
-- -: it holds none), the lock, a space, and the group of which one runs at a time.
-- `locks` maps a lock to a deadline (ms; 0: none), a space, and the id of its holder. A lock whose holder has ended is
-- free, whoever ended it. Of each group `turns` names the job that runs, or is to run next and waits at the head; those
-- that were set aside meanwhile are in the sets `parked` and `group:<group>`, by priority and then by arrival.
--
-- Most scripts need none of this, so it is made when it is first asked for.
local made
local function binding()
  if made then return made end
  local function bond_of(text)
    return string.match(text, '^(.)(%x*) (.*)$')
  end

  local function unlock(lock, id)
    local holder = call('HGET', prefix .. 'locks', lock)
    if holder and string.match(holder, '^%d+ (.*)$') == id then call('HDEL', prefix .. 'locks', lock) end
  end

  local function unpark(id, group)
    if call('ZREM', prefix .. 'parked', id) == 1 then call('ZREM', prefix .. 'group:' .. group, id) end
  end

  local function next_of(group)
    call('HDEL', prefix .. 'turns', group)
    while true do
      local next_one = call('ZPOPMIN', prefix .. 'group:' .. group)[1]
      if not next_one then return end
      call('ZREM', prefix .. 'parked', next_one)
      if call('ZSCORE', incomplete, next_one) == '0' then
        call('HSET', prefix .. 'turns', group, next_one)
        push('LPUSH', {next_one})
        return
      end
    end
  end

  -- Make way for the next one of a group, if this job had its turn.
  local function pass_on(id, group)
    if call('HGET', prefix .. 'turns', group) == id then next_of(group) end
  end

  -- Whether a job has the turn of its group; it runs, or waits to run next.
  local function has_turn(id)
    local state = call('ZSCORE', incomplete, id)
    return state and tonumber(state) <= 0
  end

  -- These wait for a later attempt: others of their groups may run before.
  local function stand_back(ids, bonds)
    for k = 1, #ids do
      local _, _, group = bond_of(bonds[k] or '- ')
      if group ~= '' then pass_on(ids[k], group) end
    end
  end

  -- These have ended, in whatever way.
  local function unbind(ids, bonds)
    for k = 1, #ids do
      if bonds[k] then
        local letter, lock, group = bond_of(bonds[k])
        call('HDEL', prefix .. 'bonds', ids[k])
        if letter ~= '-' then unlock(lock, ids[k]) end
        if group ~= '' then
          unpark(ids[k], group)
          pass_on(ids[k], group)
        end
      end
    end
  end

  -- Whether a queued job may start now; its lock is given up then, if it was held for so long. If another one of its group
  -- has the turn, it is set aside until that one passes it on.
  local function admit(id, bond)
    local letter, lock, group = bond_of(bond)
    if group ~= '' then
      local holder = call('HGET', prefix .. 'turns', group)
      if holder and holder ~= id and has_turn(holder) then
        local priority = tonumber(call('HGET', prefix .. 'prio', id) or 0)
        local place = integer(priority * 4398046511104 + call('INCR', prefix .. 'parkings'))  -- 2^42
        call('ZADD', prefix .. 'parked', 'NX', place, id)
        call('ZADD', prefix .. 'group:' .. group, 'NX', place, id)
        return false
      end
      call('HSET', prefix .. 'turns', group, id)
      unpark(id, group)
    end
    if letter == 's' or letter == 'd' then
      unlock(lock, id)
      if group == '' then
        call('HDEL', prefix .. 'bonds', id)
      else
        call('HSET', prefix .. 'bonds', id, '- ' .. group)
      end
    end
    return true
  end

  -- Let groups go on of which nobody has the turn: who had it was taken out by what knows no groups, such as a stock
  -- tool. Some are looked at in each call.
  local function mend(now)
    local parked = prefix .. 'parked'
    local from = now % call('ZCARD', parked)
    for _, id in ipairs(call('ZRANGE', parked, math.max(0, from - LIMIT / 2), from + LIMIT / 2)) do
      local bond = call('ZSCORE', incomplete, id) and call('HGET', prefix .. 'bonds', id)
      if not bond then
        call('ZREM', parked, id)
      elseif call('ZSCORE', parked, id) then
        local _, _, group = bond_of(bond)
        local holder = call('HGET', prefix .. 'turns', group)
        if not holder or not has_turn(holder) then next_of(group) end
      end
    end
  end

  -- The terms of a new job as its producer writes them: letter, lock, window (ms; 0: none), deadline (ms; 0: none), group.
  local function terms_of(text)
    local letter, lock, window, deadline, group = string.match(text, '^([fsd-])(%x*) (%d+) (%d+) (.*)$')
    return letter and {letter = letter, lock = lock, window = tonumber(window), deadline = deadline, group = group}
  end

  -- The id of the job that stands for all calls of these terms, if there is one.
  local function holder_of(terms)
    if terms.window > 0 then
      local id = call('GET', prefix .. 'window:' .. terms.lock)
      if id then return id end
    end
    if terms.letter == '-' then return nil end
    local holder = call('HGET', prefix .. 'locks', terms.lock)
    if not holder then return nil end
    local deadline, id = string.match(holder, '^(%d+) (.*)$')
    local state = call('ZSCORE', incomplete, id)
    if not state or terms.letter == 'd' and tonumber(state) < 0 then return nil end
    return id, tonumber(deadline)
  end

  local function bind(id, terms)
    if terms.letter ~= '-' then call('HSET', prefix .. 'locks', terms.lock, terms.deadline .. ' ' .. id) end
    if terms.letter ~= '-' or terms.group ~= '' then
      call('HSET', prefix .. 'bonds', id, terms.letter .. (terms.letter ~= '-' and terms.lock or '') .. ' ' .. terms.group)
    end
    if terms.window > 0 then call('SET', prefix .. 'window:' .. terms.lock, id, 'PX', integer(terms.window)) end
  end

  made = {
    bond_of = bond_of, unpark = unpark, pass_on = pass_on, stand_back = stand_back, unbind = unbind, admit = admit,
    mend = mend, terms_of = terms_of, holder_of = holder_of, bind = bind,
  }
  return made
end

-- These have ended, in whatever way.
local function unbind(ids)
  local bonds = exceptions('bonds', ids)
  if bonds then binding().unbind(ids, bonds) end
end

local QUEUED = '"status":"queued","started":0,"worker_id":null'

local function aborted_fields(now, reason)
  return '"status":"aborted","completed":' .. integer(now) .. ',"error":' .. reason
end

-- Jobs that have ended owe what is to follow them. It is written down with the end itself, as the record that says so,
-- which may be dropped or begin a new life before somebody has enqueued what follows.
local function owe(ids)
  local follows = exceptions('follows', ids)
  if not follows then return false end
  local some = false
  for k = 1, #ids do
    local document = follows[k] and call('GET', ids[k])
    if document then
      call('HSET', prefix .. 'owed', integer(call('INCR', prefix .. 'owing')), document)
      some = true
    end
  end
  forget('follows', ids)
  return some
end

-- Enter finished jobs into the index of their status, and keep the index within its cap: the records of the oldest
-- are dropped, unless their key has begun a new life.
local function index(status, ids, now, keep)
  if #ids == 0 then return end
  local key, entries = prefix .. status, {}
  for k = 1, #ids do
    entries[2 * k - 1] = now
    entries[2 * k] = ids[k]
  end
  call('ZADD', key, unpack(entries))
  local over = call('ZCARD', key) - keep
  if over <= 0 then return end
  local popped, old, gone = call('ZPOPMIN', key, math.min(over, 500)), {}, {}
  for k = 1, #popped, 2 do old[#old + 1] = popped[k] end
  local alive = call('ZMSCORE', incomplete, unpack(old))
  for k = 1, #old do
    if not alive[k] then gone[#gone + 1] = old[k] end
  end
  if #gone > 0 then call('UNLINK', unpack(gone)) end
  if status == 'failed' and call('EXISTS', prefix .. 'quarantined') == 1 then
    call('ZREM', prefix .. 'quarantined', unpack(old))
  end
end

-- Finish jobs that nobody runs as aborted, each with the reason that was left for it.
local function abort_all(ids, reasons, now, ttl, keep)
  if #ids == 0 then return end
  call('ZREM', incomplete, unpack(ids))
  leave_retrying(ids)
  local kept = {}
  for k = 1, #ids do
    if mark(ids[k], aborted_fields(now, reasons[k])) then
      call('EXPIRE', ids[k], ttl)
      kept[#kept + 1] = ids[k]
    end
    call('PUBLISH', ids[k], 'aborted')
  end
  if owe(ids) then call('PUBLISH', prefix .. 'ctl', 'owed') end
  forget_all({'aborts', 'losses', 'prio', 'max_losses'}, ids)
  unbind(ids)
  index('aborted', kept, now, keep)
end

-- Say that the server is there. When nobody could say so for a third of a lease, then nobody could renew either, and
-- for the length of a lease no lease counts as lost: an outage of the server costs no worker its jobs.
local function beat(now, lease)
  local last = call('GET', prefix .. 'pulse')
  if not last or now - tonumber(last) > lease / 3 then call('SET', prefix .. 'guard', integer(now + lease), 'PX', lease) end
  call('SET', prefix .. 'pulse', integer(now))
end

-- Ids a worker was woken for and has not claimed go back to where they were.
local function return_inbox(inc)
  local inbox = prefix .. 'inbox:' .. inc
  while call('LMOVE', inbox, queued, 'RIGHT', 'LEFT') do end
end

-- Forget which process held a lease.
local function forget_process(holder)
  local machine = call('HGET', prefix .. 'machines', holder)
  if not machine then return end
  call('HDEL', prefix .. 'machine:' .. machine, holder)
  call('HDEL', prefix .. 'machines', holder)
end

-- Forget a lease without claims. Its inbox is looked into for another hour.
local function bury(inc, holder, now)
  return_inbox(inc)
  forget_process(holder)
  call('SREM', prefix .. 'left', holder)
  call('ZREM', prefix .. 'leases', holder)
  call('HDEL', prefix .. 'workers', holder)
  call('ZADD', prefix .. 'graves', now, inc)
end

-- Texts as two strings, their lengths and their bytes: one answer of two parts is read much faster than one of many.
local function packed(texts)
  local lengths = {}
  for k = 1, #texts do lengths[k] = #texts[k] end
  return table.concat(lengths, ' '), table.concat(texts)
end
