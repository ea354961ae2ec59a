"""What Redis does for the bus, each in one step that nothing can come between.

Keys, all in one hash slot: ``{prefix}:log`` (hash: epoch, position, forgotten, run, ancestors),
``{prefix}:heads`` (sorted set: last position by topic, and an empty member so that the key exists)
and ``{prefix}:s:<topic>`` (a stream per topic, entry ids are positions).

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

# ARGV: run, fresh, topic, stream prefix, channel, size, milliseconds or 0, flags, name, body.
# One look for a dead topic per publish keeps up: each publish adds at most one topic. All that may
# fail comes before the first write, for Redis takes nothing back: in a cluster, what is asked of a
# stream that has been moved to another node already is an error.
_PUBLISH = """
local topic, streams = ARGV[3], ARGV[4]
local stream = streams .. topic
local previous, floor = redis.call('ZSCORE', heads, topic), '0'
if previous then
  previous = whole(previous)
else
  previous, floor = '0', forgotten
end
position = whole(position + 1)
local time = redis.call('TIME')
local at = string.format('%s.%06d', time[1], time[2])
local dead = first[2]
local gone = dead and dead ~= topic and redis.call('EXISTS', streams .. dead) == 0
local entry = table.concat({epoch, position, previous, floor, at, ARGV[8], ARGV[9]}, ' ')
              .. '\\n' .. ARGV[10]
if previous == '0' then redis.call('DEL', stream) end
redis.call('XADD', stream, 'MAXLEN', ARGV[6], position .. '-0', 'e', entry)
if ARGV[7] ~= '0' then redis.call('PEXPIRE', stream, ARGV[7]) end
redis.call('ZADD', heads, position, topic)
if gone then
  local head = whole(redis.call('ZSCORE', heads, dead))
  redis.call('ZREM', heads, dead)
  if tonumber(head) > tonumber(forgotten) then forgotten = head end
end
redis.call('HSET', log, 'position', position, 'forgotten', forgotten)
redis.call('PUBLISH', ARGV[5], entry)
return {epoch, position, previous, at}
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
