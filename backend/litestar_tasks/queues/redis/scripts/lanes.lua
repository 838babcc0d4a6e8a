-- List queued jobs in the order in which they will be claimed, or its reverse, from a place in it on.
--
-- ARGV: prefix, 1 for the reverse, lane, index, id and length of the document at the place ('' as lane for the
--   beginning), limit, bytes of documents that are enough.
-- Answer: 1 if there may be more, lane, index, id and length of the place to go on from, then as lengths and bytes of
--   lane, index, id, document, …: the jobs.
-- Behind the lanes of all priorities stand the jobs that were set aside for others of their groups.
-- In the reverse an index counts from the tail, where jobs join: what is claimed meanwhile moves the others towards the
-- head, so a place is found by its id.

local reverse, lane, index, id = ARGV[2] == '1', ARGV[3], tonumber(ARGV[4]), ARGV[5]
local length, limit, enough = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if not (lane and index and id and length and limit and enough) or limit < 1 or limit > 500 then
  return reject('lanes: wrong arguments')
end
-- So many entries are looked at in one call, and so many to find a place that has moved.
local LOOK, REACH = 500, 200000
call('UNLINK', prefix .. 'inbox:')  -- a full server lets a script go on that has written already
move_due(now_ms())

local lanes = call('ZRANGE', prefix .. 'lanes', 0, -1)
lanes[#lanes + 1] = '0'
local PARKED = '1000'
if call('EXISTS', prefix .. 'parked') == 1 then lanes[#lanes + 1] = PARKED end
table.sort(lanes, function(one, other)
  if reverse then one, other = other, one end
  return tonumber(one) < tonumber(other)
end)

local function key_of(name)
  if name == PARKED then return prefix .. 'parked' end
  return name == '0' and queued or queued .. ':' .. name
end

-- What a lane holds between two indexes, as LRANGE counts them, and at which index an id is, if not too far.
local function range(name, from, to)
  return call(name == PARKED and 'ZRANGE' or 'LRANGE', key_of(name), from, to)
end
local function find(name)
  if name == PARKED then return call(reverse and 'ZREVRANK' or 'ZRANK', key_of(name), id) end
  local found = call('LPOS', key_of(name), id, 'RANK', reverse and -1 or 1, 'MAXLEN', REACH)
  return found and (reverse and call('LLEN', key_of(name)) - 1 - found or found)
end

-- The index that comes after the place. Who was claimed has left the lane, and so have all who stood before.
local function following(name)
  local there = reverse and -1 - index or index
  if range(name, there, there)[1] == id then return index + 1 end
  local state = call('ZSCORE', incomplete, id)
  if not state or state == '0' and (length < 0 or call('STRLEN', id) == length) then
    local found = find(name)
    if found then return found + 1 end
    if state then return index + 1 end
  end
  return reverse and call(name == PARKED and 'ZCARD' or 'LLEN', key_of(name)) or 0
end

local texts, seen, looked, size, jobs = {}, {}, 0, 0, 0
local function answer(more)
  local lengths, bytes = packed(texts)
  return {more, lane, index, id, length, lengths, bytes}
end

local from = lane
for _, name in ipairs(lanes) do
  local ahead = from ~= '' and tonumber(name) - tonumber(from) or 0
  if from == '' or ahead == 0 or (ahead > 0) ~= reverse then
    local at = from ~= '' and ahead == 0 and following(name) or 0
    while true do
      local window = math.min(100, LOOK - looked)
      local entries = reverse and range(name, -at - window, -at - 1) or range(name, at, at + window - 1)
      if #entries == 0 then break end
      local states = call('ZMSCORE', incomplete, unpack(entries))
      for k = 1, #entries do
        local entry = reverse and #entries - k + 1 or k
        local one = entries[entry]
        looked = looked + 1
        local document = states[entry] == '0' and not seen[one] and call('GET', one)
        if document then
          if jobs == limit or size >= enough then return answer(1) end
          seen[one] = true
          jobs, size = jobs + 1, size + #document
          for _, text in ipairs({name, integer(at), one, document}) do texts[#texts + 1] = text end
        end
        if one ~= '-' then
          lane, index, id, length = name, at, one, document and #document or -1
        end
        at = at + 1
      end
      if looked >= LOOK then return answer(1) end
    end
  end
end
return answer(0)
