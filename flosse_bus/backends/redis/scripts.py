"""What Redis does for the bus, each in one step that nothing can come between.

Keys, all in one hash slot: ``{prefix}:log`` (hash: epoch, position, forgotten, run, ancestors),
``{prefix}:heads`` (sorted set: last position by topic, and an empty member so that the key exists),
``{prefix}:s:<topic>`` (a stream per topic, entry ids are positions) and ``{prefix}:k:<key>`` (what
was published with an idempotency key: topic and entry).

Either of the first two missing means that history was lost, to FLUSHALL, to eviction or to a
restart: a new log begins. A stream missing means that its topic has lost all up to its head.
Another ``run`` of the server than last time means that what was last may have been lost, in a
restart or a fail-over, and that the positions that are given next may have been given before: the
log goes on in a new epoch, and knows up to where the one before it holds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

#: How many epochs a log remembers having gone on from.
ANCESTORS = 100

_OPEN = """
local log, heads = KEYS[1], KEYS[2]
local run, fresh = ARGV[1], ARGV[2]
local function whole(number) return string.format('%.0f', tonumber(number)) end

local state = redis.call('HMGET', log, 'epoch', 'position', 'forgotten', 'ancestors', 'run')
local first = redis.call('ZRANGE', heads, 0, 1)
local epoch, position, forgotten, ancestors = state[1], state[2], state[3], state[4]
if not epoch or not first[1] then
  epoch, position, forgotten, ancestors = fresh, '0', '0', ''
  redis.call('DEL', log, heads)
  redis.call('ZADD', heads, -1, '')
  redis.call('HSET', log, 'epoch', epoch, 'position', position, 'forgotten', forgotten,
             'ancestors', ancestors, 'run', run)
elseif state[5] ~= run then
  ancestors = ancestors .. epoch .. ' ' .. position .. '\\n'
  local _, count = ancestors:gsub('\\n', '')
  if count > @ANCESTORS@ then ancestors = ancestors:gsub('^[^\\n]*\\n', '', 1) end
  epoch = fresh
  redis.call('HSET', log, 'epoch', epoch, 'ancestors', ancestors, 'run', run)
end
""".replace("@ANCESTORS@", str(ANCESTORS))

# ARGV: run, fresh, prefixes of streams, channels and keys, milliseconds for keys, number of topics;
# for each topic its name, size, milliseconds or 0 and bytes or 0; for each event its topic, its
# flags and name, its body, and its key or nothing.
# One look for a dead topic per event keeps up: each adds at most one topic. All that may fail comes
# before the first write, for Redis takes nothing back: in a cluster, what is asked of a stream that
# has been moved to another node already is an error.
# Of topics with a bound in bytes each entry says how many bytes came up to its end ("n"), so that
# the first and the last tell how many are kept.
_PUBLISH = """
local streams, channels, keys, remember = ARGV[3], ARGV[4], ARGV[5], ARGV[6]

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

local count = tonumber(ARGV[7])
local begin = 8 + 4 * count
local previous, floors, sizes, ttls, bounds, kept = {}, {}, {}, {}, {}, {}
for i = 8, begin - 1, 4 do
  local topic = ARGV[i]
  local head = redis.call('ZSCORE', heads, topic)
  previous[topic], floors[topic] = head and whole(head) or '0', head and '0' or forgotten
  sizes[topic], ttls[topic], bounds[topic] = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  redis.call('XLEN', streams .. topic)
end
for i = begin + 3, #ARGV, 4 do
  local key = ARGV[i]
  if key ~= '' and kept[key] == nil then kept[key] = known(key) end
end
local gone = {}
if count > 1 then first = redis.call('ZRANGE', heads, 0, count) end
for i = 2, #first do
  local dead = first[i]
  if not previous[dead] and redis.call('EXISTS', streams .. dead) == 0 then
    gone[#gone + 1] = dead
  end
end

-- Bytes up to the end of the last event, of a topic whose next one is to be bounded.
local function total(stream)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if not last then return 0 end
  if last[2][4] then return tonumber(last[2][4]) end
  local sum, before = 0, 0
  for j, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
    local size = #entry[2][2] - entry[2][2]:find('\\n', 1, true)
    if j == 1 and entry[2][4] then before = tonumber(entry[2][4]) - size end
    sum = sum + size
  end
  return before + sum
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

local time = redis.call('TIME')
local at = string.format('%s.%06d', time[1], time[2])
local result, news, sums, touched = {epoch, at}, {}, {}, {}
for i = begin, #ARGV, 4 do
  local topic, body, key = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  if key ~= '' and kept[key] then
    result[#result + 1] = kept[key]
  else
    local stream = streams .. topic
    position = whole(position + 1)
    local entry = table.concat({epoch, position, previous[topic], floors[topic], at,
                                ARGV[i + 1]}, ' ') .. '\\n' .. body
    if previous[topic] == '0' then redis.call('DEL', stream) end
    if bounds[topic] == '0' then
      redis.call('XADD', stream, 'MAXLEN', sizes[topic], position .. '-0', 'e', entry)
    else
      local sum = (sums[topic] or total(stream)) + #body
      sums[topic] = sum
      redis.call('XADD', stream, 'MAXLEN', sizes[topic], position .. '-0', 'e', entry,
                 'n', whole(sum))
      trim(stream, sum, tonumber(bounds[topic]))
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
  if ttls[topic] ~= '0' then redis.call('PEXPIRE', streams .. topic, ttls[topic]) end
  redis.call('ZADD', heads, previous[topic], topic)
end
for _, dead in ipairs(gone) do
  local head = whole(redis.call('ZSCORE', heads, dead))
  redis.call('ZREM', heads, dead)
  if tonumber(head) > tonumber(forgotten) then forgotten = head end
end
redis.call('HSET', log, 'position', position, 'forgotten', forgotten)
for _, one in ipairs(news) do redis.call('PUBLISH', channels .. one[1], one[2]) end
return result
"""

_TAIL = """
return {epoch, position, forgotten, ancestors}
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
local time = redis.call('TIME')
return {epoch, position, forgotten, ancestors, string.format('%s.%06d', time[1], time[2]), topics}
"""

# ARGV: run, fresh, stream prefix.
_FLUSH = """
for _, topic in ipairs(redis.call('ZRANGE', heads, 1, -1)) do
  redis.call('UNLINK', ARGV[3] .. topic)
end
redis.call('DEL', heads)
redis.call('ZADD', heads, -1, '')
redis.call('HSET', log, 'epoch', fresh, 'position', '0', 'forgotten', '0', 'ancestors', '',
           'run', run)
return fresh
"""


@dataclass(frozen=True, slots=True)
class Script:
    text: str
    sha: str


def _script(body: str) -> Script:
    text = _OPEN + body
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


PUBLISH = _script(_PUBLISH)
TAIL = _script(_TAIL)
READ = _script(_READ)
FLUSH = _script(_FLUSH)
