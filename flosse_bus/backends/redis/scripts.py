"""What Redis does for the bus, each in one step that nothing can come between.

Keys, all in one hash slot: ``{prefix}:log`` (hash: epoch, position, forgotten, forgotten_by,
ancestors, run, checked, looked), ``{prefix}:heads`` (sorted set: last position by topic, and an
empty member so that the key exists), ``{prefix}:s:<topic>`` (a stream per topic, entry ids are
positions) and ``{prefix}:k:<key>`` (what was published with an idempotency key: topic and entry).

Either of the first two missing means that history was lost, to FLUSHALL, to eviction or to a
restart: a new log begins. A stream missing means that its topic has lost all up to its head.
Another ``run`` than last time means that what was last may have been lost, in a restart or a
fail-over: it names the process, and the history of replication that a master begins when it takes
over, for one that had to follow a replica which was behind comes back as the same process. The
positions that are given next may have been given before: the log goes on in a new epoch, and knows
up to where the one before it holds.

A topic without a stream is dead, and publishers take it out of the heads. What it may have lost is
kept in ``forgotten_by``, for all dead topics of its class together: the signature of ``TOPICS`` and
``class:position`` for each. Classes of another signature say nothing: then all that they have lost
counts for every topic, as ``forgotten`` does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

#: How many epochs a log remembers having gone on from.
ANCESTORS = 100
#: Milliseconds for which publishers trust that their server has not followed another meanwhile. To
#: do so, load what that one has and be master again takes longer; to ask costs 5 % of a publish.
FRESH = 10

# "@HEAD@": of one topic, for whoever needs it anyway. If there is one, there are heads.
_OPEN = """
local log, heads = KEYS[1], KEYS[2]
local run, fresh = ARGV[1], ARGV[2]
local function whole(number) return string.format('%.0f', tonumber(number)) end

local state = redis.call('HMGET', log, 'epoch', 'position', 'forgotten', 'forgotten_by',
                         'ancestors', 'run', 'checked')
local time = redis.call('TIME')
local checked = time[1] * 1000 + time[2] / 1000
local age = checked - (state[7] or 0)
if age >= -1 and age < @FRESH@ and state[6] and state[6]:sub(1, #run + 1) == run .. ' ' then
  run, checked = state[6], nil
else
  -- Here and not by the client, whose connection may outlive a change. Some servers hide it.
  local info = redis.pcall('INFO', 'replication')
  local at = type(info) == 'string' and info:find('master_replid:', 1, true)
  run = run .. ' ' .. (at and info:sub(at + 14, at + 53) or '')
end

local epoch, position, forgotten, by = state[1], state[2], state[3], state[4] or ''
local ancestors = state[5]
local head = @HEAD@
if not epoch or not head and redis.call('EXISTS', heads) == 0 then
  head = false
  epoch, position, forgotten, by, ancestors = fresh, '0', '0', '', ''
  redis.call('DEL', log, heads)
  redis.call('ZADD', heads, -1, '')
  redis.call('HSET', log, 'epoch', epoch, 'position', position, 'forgotten', forgotten,
             'ancestors', ancestors, 'run', run)
elseif state[6] ~= run then
  ancestors = ancestors .. epoch .. ' ' .. position .. '\\n'
  local _, count = ancestors:gsub('\\n', '')
  if count > @ANCESTORS@ then ancestors = ancestors:gsub('^[^\\n]*\\n', '', 1) end
  epoch = fresh
  redis.call('HSET', log, 'epoch', epoch, 'ancestors', ancestors, 'run', run)
end
""".replace("@ANCESTORS@", str(ANCESTORS)).replace("@FRESH@", str(FRESH))

#: Publishers look for dead topics whenever so many events have been published.
EVERY = 32

# ARGV: run, fresh, prefixes of streams, channels and keys, milliseconds for keys, lines with the
# signature of TOPICS and its Lua patterns, number of topics; for each topic its name, size,
# milliseconds or 0 and bytes or 0; for each event its topic, its flags and name, its body, and its
# key or nothing.
# Looks for dead topics go on where the last ones ended, so that none that lives on is in the way of
# those behind it. Two for each topic published to keep up, for that adds at most one, and moves to
# the end.
# All that may fail comes before the first write, for Redis takes nothing back: in a cluster, what
# is asked of a stream that has been moved to another node already is an error.
# Where a topic has a bound in bytes each entry says how many bytes came up to its end ("n"), so
# that the first and the last tell how many are kept. Whoever has no bound for it leaves that out.
_PUBLISH = """
local streams, channels, keys, remember = ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local classes, count = ARGV[7], tonumber(ARGV[8])

-- What forgotten topics have lost: a function to ask for what a topic that has no head may have
-- lost, and one to note more of them, by topic their heads. Made when needed.
local function losses()
  local own, other, lost = classes:match('^%x*'), by:match('^%x*'), {}
  for number, at in by:gmatch('(%d+):(%d+)') do lost[number] = at end

  local function higher(one, two) return tonumber(two) > tonumber(one) and two or one end

  local function class(topic)
    local number = -1  -- the line with the signature
    for pattern in classes:gmatch('[^\\n]+') do
      if number >= 0 and topic:find(pattern) then break end
      number = number + 1
    end
    return tostring(number)
  end

  local function all()
    local most = forgotten
    for _, at in pairs(lost) do most = higher(most, at) end
    return most
  end

  local function of(topic)
    if own ~= other then return all() end
    return higher(forgotten, lost[class(topic)] or '0')
  end

  local function add(gone)
    if own == '' then
      for _, head in pairs(gone) do forgotten = higher(forgotten, head) end
      return
    end
    if own ~= other then forgotten, lost = all(), {} end
    for topic, head in pairs(gone) do
      local number = class(topic)
      lost[number] = higher(lost[number] or '0', head)
    end
    by = own
    for number, at in pairs(lost) do by = by .. ' ' .. number .. ':' .. at end
  end

  return of, add
end

local function known(key)
  local kept = redis.call('GET', keys .. key)
  if not kept then return false end
  local of, at = kept:match('^[^\\n]*\\n([^ ]*) ([^ ]*)')
  if of == epoch then return kept end
  for ancestor, last in ancestors:gmatch('([^ \\n]*) ([^\\n]*)\\n') do
    if ancestor == of and tonumber(at) <= tonumber(last) then return kept end
  end
  return false
end

local begin = 9 + 4 * count
local previous, floors, sizes, ttls, bounds, kept, lost_by = {}, {}, {}, {}, {}, {}, nil
for i = 9, begin - 1, 4 do
  local topic = ARGV[i]
  if i > 9 then head = redis.call('ZSCORE', heads, topic) end
  if head then
    previous[topic], floors[topic] = whole(head), '0'
  else
    if by ~= '' then lost_by = lost_by or losses() end
    previous[topic], floors[topic] = '0', lost_by and lost_by(topic) or forgotten
  end
  sizes[topic], ttls[topic], bounds[topic] = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  redis.call('XLEN', streams .. topic)
end
for i = begin + 3, #ARGV, 4 do
  local key = ARGV[i]
  if key ~= '' and kept[key] == nil then kept[key] = known(key) end
end
local gone, looked = {}, nil
if math.floor((position + (#ARGV - begin + 1) / 4) / @EVERY@) > math.floor(position / @EVERY@) then
  local looks = 2 * (@EVERY@ + count)
  local found = redis.call('ZRANGE', heads, '(' .. (redis.call('HGET', log, 'looked') or -1),
                           '+inf', 'BYSCORE', 'LIMIT', 0, looks)
  looked = #found == looks and redis.call('ZSCORE', heads, found[looks]) or '-1'
  for from = 1, #found, 100 do
    local some = {}
    for i = from, math.min(from + 99, #found) do some[i - from + 1] = streams .. found[i] end
    -- At once, for most of the time all are there.
    if redis.call('EXISTS', unpack(some)) < #some then
      for i, stream in ipairs(some) do
        local topic = found[from + i - 1]
        if not previous[topic] and redis.call('EXISTS', stream) == 0 then
          gone[topic] = whole(redis.call('ZSCORE', heads, topic))
        end
      end
    end
  end
end

-- Bytes up to the end of the last event, of a topic whose next one is to be bounded.
local function total(stream)
  local after, from, count = 0, '+', 1
  while true do
    local entries = redis.call('XREVRANGE', stream, from, '-', 'COUNT', count)
    for _, entry in ipairs(entries) do
      if entry[2][4] then return tonumber(entry[2][4]) + after end
      after = after + #entry[2][2] - entry[2][2]:find('\\n', 1, true)
    end
    if #entries < count then return after end
    from, count = '(' .. entries[count][1], 100
  end
end

local function trim(stream, sum, limit)
  local start
  while redis.call('XLEN', stream) > 1 do
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    local size = #oldest[2][2] - oldest[2][2]:find('\\n', 1, true)
    if oldest[2][4] then
      start = tonumber(oldest[2][4]) - size
    elseif not start then
      start = sum
      for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
        start = start - (#entry[2][2] - entry[2][2]:find('\\n', 1, true))
      end
    end
    if sum - start <= limit then return end
    redis.call('XDEL', stream, oldest[1])
    start = start + size
  end
end

local at = string.format('%s.%06d', time[1], time[2])
local result, news, sums, touched = {epoch, at}, {}, {}, {}
for i = begin, #ARGV, 4 do
  local topic, body, key = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  if key ~= '' and kept[key] then
    result[#result + 1] = kept[key]
  else
    local stream = streams .. topic
    position = whole(position + 1)
    local entry = epoch .. ' ' .. position .. ' ' .. previous[topic] .. ' ' .. floors[topic]
      .. ' ' .. at .. ' ' .. ARGV[i + 1] .. '\\n' .. body
    if previous[topic] == '0' then redis.call('DEL', stream) end
    if bounds[topic] == '0' then
      redis.call('XADD', stream, position .. '-0', 'e', entry)
    else
      local sum = (sums[topic] or total(stream)) + #body
      sums[topic] = sum
      redis.call('XADD', stream, position .. '-0', 'e', entry, 'n', whole(sum))
    end
    touched[topic] = true
    result[#result + 1] = position .. ' ' .. previous[topic]
    news[#news + 1] = {topic, entry}
    previous[topic], floors[topic] = position, '0'
    if key ~= '' then
      kept[key] = topic .. '\\n' .. entry
      redis.call('SET', keys .. key, kept[key], 'PX', remember)
    end
  end
end
for topic in pairs(touched) do
  -- Once for all that came: to cut the end of a stream costs as much as to add to it.
  redis.call('XTRIM', streams .. topic, 'MAXLEN', sizes[topic])
  if sums[topic] then trim(streams .. topic, sums[topic], tonumber(bounds[topic])) end
  if ttls[topic] ~= '0' then
    redis.call('PEXPIRE', streams .. topic, ttls[topic])
  else
    redis.call('PERSIST', streams .. topic)
  end
  redis.call('ZADD', heads, previous[topic], topic)
end
if next(gone) then
  for topic in pairs(gone) do redis.call('ZREM', heads, topic) end
  select(2, losses())(gone)
  redis.call('HSET', log, 'forgotten', forgotten, 'forgotten_by', by)
end
redis.call('HSET', log, 'position', position)
if checked then redis.call('HSET', log, 'checked', whole(checked)) end
if looked then redis.call('HSET', log, 'looked', looked) end
for _, one in ipairs(news) do redis.call('PUBLISH', channels .. one[1], one[2]) end
return result
""".replace("@EVERY@", str(EVERY))

# ARGV: run, fresh, epoch and position of a tail that was seen before. If it was further on, this is
# an older state on a server that does not let itself be told from the one before, and nobody knows
# which positions have been given again since: a new log.
_TAIL = """
if ARGV[3] == epoch and tonumber(ARGV[4]) > tonumber(position) then
  epoch, position = fresh, '0'
  redis.call('DEL', log, heads)
  redis.call('ZADD', heads, -1, '')
  redis.call('HSET', log, 'epoch', epoch, 'position', position, 'forgotten', '0',
             'ancestors', '', 'run', run)
end
return {epoch, position}
"""

# ARGV: run, fresh, stream prefix, number of topics, topics, Lua patterns of further topics.
_READ = """
local streams, count = ARGV[3], tonumber(ARGV[4])
local wanted, found = {}, {}
local function want(topic)
  if topic ~= '' and not found[topic] then
    found[topic] = true
    wanted[#wanted + 1] = topic
  end
end
for i = 5, 4 + count do
  if redis.call('ZSCORE', heads, ARGV[i]) then want(ARGV[i]) end
end
if #ARGV > 4 + count then
  for _, topic in ipairs(redis.call('ZRANGE', heads, 1, -1)) do
    for i = 5 + count, #ARGV do
      if topic:find(ARGV[i]) then
        want(topic)
        break
      end
    end
  end
end
local topics = {}
for i, topic in ipairs(wanted) do
  local entries = redis.call('XRANGE', streams .. topic, '-', '+')
  for j, entry in ipairs(entries) do entries[j] = entry[2][2] end
  topics[i] = {topic, whole(redis.call('ZSCORE', heads, topic)), entries}
end
return {epoch, position, forgotten, by, ancestors, string.format('%s.%06d', time[1], time[2]),
        topics}
"""

# ARGV: run, fresh, stream prefix.
_FLUSH = """
for _, topic in ipairs(redis.call('ZRANGE', heads, 1, -1)) do
  redis.call('UNLINK', ARGV[3] .. topic)
end
redis.call('DEL', heads)
redis.call('ZADD', heads, -1, '')
redis.call('HSET', log, 'epoch', fresh, 'position', '0', 'forgotten', '0', 'forgotten_by', '',
           'ancestors', '', 'run', run, 'looked', '-1')
return fresh
"""


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str


def _script(body: str, head: str = "false") -> Script:
    text = _OPEN.replace("@HEAD@", head) + body
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


PUBLISH = _script(_PUBLISH, "redis.call('ZSCORE', heads, ARGV[9])")
TAIL = _script(_TAIL)
READ = _script(_READ)
FLUSH = _script(_FLUSH)
