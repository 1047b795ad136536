"""What is done inside Redis, one session or one model at a time: every script has one key, so that a cluster can run
it.

A session is a hash: `n` steps of the present stretch, `s` its last scores, `g` the grade of its gravest alarm (0 is the
gravest), `k` the number of the stretch, `t` when it was last heard of, `b` the batches that were taken in lately.
Scores pass as the text they came as, so that nothing is rounded. Redis keeps the time, so that replicas' clocks do not
matter.
"""

from __future__ import annotations

NOW = "local time = redis.call('TIME')\nlocal now = time[1] * 1000 + math.floor(time[2] / 1000)\n"

# batch, window's width, steps of a stretch (0: endless), idle ms, scores... -> steps, scores, grade, stretch before;
# and the grade that a session had which ended by silence, '' where none did.
PUSH = (
    NOW
    + """
local had = redis.call('HMGET', KEYS[1], 'n', 's', 'g', 'k', 't', 'b')
local n, s, g, k = tonumber(had[1] or 0), had[2] or '', had[3] or '-', tonumber(had[4] or 0)
local batches, ended = had[6] or '', ''
local width, every, idle = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if string.find(' ' .. batches .. ' ', ' ' .. ARGV[1] .. ' ', 1, true) then return {n, s, g, k, ''} end
if had[5] and now - tonumber(had[5]) > idle then ended = g; n, s, g, k = 0, '', '-', k + 1 end
local before = {n, s, g, k, ended}
local last = {}
for score in string.gmatch(s, '%S+') do last[#last + 1] = score end
for at = 5, #ARGV do
  if every > 0 and n == every then last, n, g, k = {}, 0, '-', k + 1 end
  last[#last + 1] = ARGV[at]
  if #last > width then table.remove(last, 1) end
  n = n + 1
end
local kept = string.sub(ARGV[1] .. ' ' .. batches, 1, 320)
redis.call('HSET', KEYS[1], 'n', n, 's', table.concat(last, ' '), 'g', g, 'k', k, 't', now, 'b', kept)
redis.call('PEXPIRE', KEYS[1], 3 * idle + 60000)
return before
"""
)

# grade, stretch ("*": the present one): the gravest alarm, unless there was a graver one or the stretch is over.
GRADE = """
local had = redis.call('HMGET', KEYS[1], 'g', 'k')
if had[1] and (ARGV[2] == '*' or had[2] == ARGV[2]) and (had[1] == '-' or tonumber(had[1]) > tonumber(ARGV[1])) then
  redis.call('HSET', KEYS[1], 'g', ARGV[1])
end
return 1
"""

# the signals of a session's response, as text, and idle ms -> those of the response before, '' where none are there.
EXCHANGE = """
local before = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return before or ''
"""

# idle ms, sessions...: these were heard of now.
HEARD = (
    NOW
    + """
for at = 2, #ARGV do redis.call('ZADD', KEYS[1], now, ARGV[at]) end
redis.call('PEXPIRE', KEYS[1], 3 * tonumber(ARGV[1]) + 60000)
return 1
"""
)

# idle ms, most sessions, at most so many now -> how many were silent, and the sessions that have ended, those first.
ENDED = (
    NOW
    + """
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[1]), 'LIMIT', 0, tonumber(ARGV[3]))
local silent = #ended
local beyond = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[2]) - #ended
if beyond > 0 and #ended < tonumber(ARGV[3]) then
  local more = redis.call('ZRANGE', KEYS[1], #ended, #ended + math.min(beyond, tonumber(ARGV[3]) - #ended) - 1)
  for at = 1, #more do ended[#ended + 1] = more[at] end
end
if #ended > 0 then redis.call('ZREM', KEYS[1], unpack(ended)) end
table.insert(ended, 1, silent)
return ended
"""
)

# idle ms (-1: however lately it was heard of) -> the grade of a session that has ended and is forgotten; '' if it goes
# on after all.
FORGET = (
    NOW
    + """
local had = redis.call('HMGET', KEYS[1], 'g', 't')
if not had[1] or now - tonumber(had[2]) <= tonumber(ARGV[1]) then return '' end
redis.call('DEL', KEYS[1])
return had[1]
"""
)

# replica, number of its report, ms to keep, epoch if there is none, then fields and increments by turns -> all fields.
# A report that was taken in before adds nothing. The second key has the same hash tag as the first.
COUNT = """
local told = KEYS[1] .. ':' .. ARGV[1]
if tonumber(redis.call('GET', told) or '0') < tonumber(ARGV[2]) then
  for at = 5, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[at], ARGV[at + 1]) end
  redis.call('SET', told, ARGV[2], 'PX', ARGV[3])
end
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('HGETALL', KEYS[1])
"""

# ms, most, labels... -> how many wait for the replica whose key this is; the oldest of more are lost.
LEAVE = """
for at = 3, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[at]) end
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('LLEN', KEYS[1])
"""

# at most so many -> the labels that wait, oldest first; they are taken away.
FETCH = """
local found = redis.call('LRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)
redis.call('LTRIM', KEYS[1], #found, -1)
return found
"""

# who, ms -> what is known of an alarm: 'ours' to tell, for so long; 'elsewhere', where another is telling it; 'told'.
CLAIM = """
local had = redis.call('GET', KEYS[1])
if not had or had == ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]); return 'ours' end
if had == 'told ' .. ARGV[1] then return 'ours' end
return string.sub(had, 1, 5) == 'told ' and 'told' or 'elsewhere'
"""

# who, ms -> the alarm has been told, which holds for so long.
MARK_DELIVERED = "return redis.call('SET', KEYS[1], 'told ' .. ARGV[1], 'PX', ARGV[2])"
