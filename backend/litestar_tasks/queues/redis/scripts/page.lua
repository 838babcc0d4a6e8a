-- List jobs in the order of one of the queue's sets, from a place in it on.
--
-- ARGV: prefix, set, lowest and highest score, 1 for downwards, score and id of the place ('' for the beginning), limit,
--   bytes of documents that are enough.
-- Answer: 1 if there may be more, id and score of the place to go on from, then as lengths and bytes of id, score,
--   document, …: the jobs.
-- A set of ended jobs outlives their records: entries without one, and those whose key has begun a new life, are dropped.

local name, low, high, down = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local after_score, after_id, limit, enough = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local lowest, highest = tonumber(low or nil), tonumber(high or nil)
if not (name and lowest and highest and after_score and after_id and limit and enough) or limit < 1 or limit > 500 then
  return reject('page: wrong arguments')
end
local key, ended = prefix .. name, name ~= 'incomplete' and name ~= 'retrying'
if not ended and highest > 0 then
  -- What is due counts as queued.
  lowest = math.max(lowest, (now_ms() + 1) / 1000)
  low = string.format('%.3f', lowest)
end

-- Whether one id comes before another in a set of equal scores: byte by byte. Lua's own order is the locale's.
local function before(one, other)
  for k = 1, math.min(#one, #other) do
    local left, right = string.byte(one, k), string.byte(other, k)
    if left ~= right then return left < right end
  end
  return #one < #other
end

-- How many entries come before a place, and whether one stands at it.
local function rank_of(score, id)
  if tonumber(call('ZSCORE', key, id) or nil) == tonumber(score) then return call('ZRANK', key, id), 1 end
  local first = call('ZCOUNT', key, '-inf', '(' .. score)
  local last = first + call('ZCOUNT', key, score, score)
  while first < last do
    local middle = math.floor((first + last) / 2)
    if before(call('ZRANGE', key, middle, middle)[1], id) then first = middle + 1 else last = middle end
  end
  return first, 0
end

local from
if after_id ~= '' then
  local rank, there = rank_of(after_score, after_id)
  from = down and rank - 1 or rank + there
elseif down then
  from = call('ZCOUNT', key, '-inf', high) - 1
else
  from = call('ZCOUNT', key, '-inf', '(' .. low)
end
if from < 0 then return {0, '', '', '', ''} end
local found = down and call('ZRANGE', key, math.max(0, from - limit), from, 'WITHSCORES')
  or call('ZRANGE', key, from, from + limit, 'WITHSCORES')
local count = #found / 2
local more, ids, scores = 0, {}, {}
for k = 1, count do
  local at = 2 * (down and count - k + 1 or k)
  local score = tonumber(found[at])
  if score < lowest or score > highest then break end
  if k > limit then
    more = 1
  else
    ids[k], scores[k] = found[at - 1], found[at]
  end
end
if #ids == 0 then return {0, '', '', '', ''} end

local states = call('ZMSCORE', incomplete, unpack(ids))
local texts, stale, size = {}, {}, 0
local last, last_score
for k = 1, #ids do
  local id, score = ids[k], scores[k]
  local document = call('GET', id)
  if ended and (states[k] or not document) or name == 'retrying' and states[k] ~= score then
    stale[#stale + 1] = id
  elseif document then
    texts[#texts + 1] = id
    texts[#texts + 1] = score
    texts[#texts + 1] = document
    size = size + #document
  end
  last, last_score = id, score
  if size >= enough and k < #ids then
    more = 1
    break
  end
end
drop(name, stale)
local lengths, bytes = packed(texts)
return {more, last, last_score, lengths, bytes}
