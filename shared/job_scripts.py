"""The job store's atomic moves, as Lua that Redis runs in one step.

Owns what changes together: a state and the event that tells of it. Every script can be run twice without harm; run
again, it changes nothing and tells nothing. Leaves out who calls them, and the keys' names (`shared.job_store`).
"""

from __future__ import annotations

from typing import Final

EVENTS_KEPT: Final = 500
"""Events that a job's stream keeps, or a few more: trimming goes by whole nodes of the stream."""
EVENTS_TTL_S: Final = 3_600
"""How long the events of an ended job can still be caught up on."""
CHANNEL: Final = "riffarm:events"
"""Where the id of a job with new events is published."""

_EVENTS: Final = f"""
local function add(events, kind, data)
  redis.call('XADD', events, 'MAXLEN', '~', {EVENTS_KEPT}, '*', 'kind', kind, 'data', data)
end
local function publish(job)
  redis.call('PUBLISH', '{CHANNEL}', string.match(job, '[^:]+$'))
end
local function is_live(status)
  return status == 'queued' or status == 'running'
end
"""

# KEYS job, frames, done, attempts, events, previews
# ARGV item, counter or "", field to add to, addend, then frame, record, …
# Adds what an item finished. Only the first report counts; a new frame shows that the item is no poison.
RECORD: Final = (
    _EVENTS
    + """
local before = redis.call('HMGET', KEYS[1], 'status', 'started_ms', 'frames_reused', 'chunks_done')
if not before[1] then return 0 end
local is_told = is_live(before[1])
local starts = #ARGV > 4 and tonumber(redis.call('HGET', KEYS[4], ARGV[1] .. ':starts')) or 1
local frames_reused, chunks_done = tonumber(before[3]), tonumber(before[4])
local is_new = false
for i = 5, #ARGV, 2 do
  local record = cjson.decode(ARGV[i + 1])
  record.frame, record.attempts = tonumber(ARGV[i]), starts
  local told = cjson.encode(record)
  if redis.call('HSETNX', KEYS[2], ARGV[i], told) == 1 then
    is_new = true
    if record.reused then
      frames_reused = redis.call('HINCRBY', KEYS[1], 'frames_reused', 1)
    else
      redis.call('HDEL', KEYS[4], ARGV[1])
    end
    redis.call('HDEL', KEYS[6], ARGV[i])
    if is_told then add(KEYS[5], 'frame', told) end
  end
end
local is_first = 0
if ARGV[2] ~= '' and redis.call('SADD', KEYS[3], ARGV[1]) == 1 then
  is_first = 1
  local counted = redis.call('HINCRBY', KEYS[1], ARGV[2], 1)
  redis.call('HINCRBY', KEYS[1], ARGV[3], ARGV[4])
  if ARGV[2] == 'chunks_done' then is_new, chunks_done = true, counted end
end
if is_new and is_told then
  add(KEYS[5], 'progress', cjson.encode({
    frames_done = redis.call('HLEN', KEYS[2]),
    frames_reused = frames_reused,
    chunks_done = chunks_done,
    started_ms = tonumber(before[2]),
  }))
  publish(KEYS[1])
end
return is_first
"""
)

# KEYS job, frames, moves · ARGV by, window, batches_total, chunks_total, chunk, the frames it needs, …
# Releases the work that may start now that `by` is finished, and remembers it: asked again, it answers the same.
RELEASE: Final = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return {} end
local before = redis.call('HGET', KEYS[3], ARGV[1])
if before then
  local items = {}
  for item in string.gmatch(before, '%S+') do items[#items + 1] = item end
  return items
end
local f = redis.call('HMGET', KEYS[1], 'next_batch', 'batches_done', 'next_chunk', 'chunks_done', 'delivering')
local next_batch, next_chunk, chunks_done = tonumber(f[1]), tonumber(f[3]), tonumber(f[4])
local items = {}
while next_batch < tonumber(ARGV[3]) and next_batch - tonumber(f[2]) < tonumber(ARGV[2]) do
  items[#items + 1] = 'b' .. next_batch
  next_batch = next_batch + 1
end
if next_chunk == tonumber(ARGV[5]) and next_chunk == chunks_done and next_chunk < tonumber(ARGV[4]) then
  local ready = true
  for i = 6, #ARGV do
    if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then ready = false break end
  end
  if ready then
    items[#items + 1] = 'c' .. next_chunk
    next_chunk = next_chunk + 1
  end
end
if chunks_done == tonumber(ARGV[4]) and f[5] == '0' then
  items[#items + 1] = 'deliver'
  redis.call('HSET', KEYS[1], 'delivering', 1)
end
redis.call('HSET', KEYS[1], 'next_batch', next_batch, 'next_chunk', next_chunk)
redis.call('HSET', KEYS[3], ARGV[1], table.concat(items, ' '))
return items
"""

# KEYS job, attempts, queued, done, events · ARGV item, stage, now, id
# Marks an item as started and the job as running; answers the status it found, the item's attempts, whether it is done.
START: Final = (
    _EVENTS
    + """
local before = redis.call('HMGET', KEYS[1], 'status', 'stage')
local status = before[1]
if not status then return {'', 0, 0} end
if redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 1 then return {status, 0, 1} end
if status == 'queued' then
  redis.call('HSET', KEYS[1], 'status', 'running', 'started_ms', ARGV[3])
  redis.call('ZREM', KEYS[3], ARGV[4])
end
if is_live(status) and (status == 'queued' or before[2] ~= ARGV[2]) then
  redis.call('HSET', KEYS[1], 'stage', ARGV[2])
  add(KEYS[5], 'status', cjson.encode({status = 'running', stage = ARGV[2]}))
  publish(KEYS[1])
end
redis.call('HINCRBY', KEYS[2], ARGV[1] .. ':starts', 1)
return {status, redis.call('HINCRBY', KEYS[2], ARGV[1], 1), 0}
"""
)

# KEYS job, queued, active, events, previews · ARGV status, now, id, field, value, …
# The one way into a terminal status, from which there is no way out.
FINISH: Final = (
    _EVENTS
    + f"""
if not is_live(redis.call('HGET', KEYS[1], 'status')) then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[1], 'finished_ms', ARGV[2], 'stage', '', 'announced', 0)
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('ZREM', KEYS[2], ARGV[3])
redis.call('SREM', KEYS[3], ARGV[3])
redis.call('DEL', KEYS[5])
add(KEYS[4], 'status', cjson.encode({{status = ARGV[1], stage = cjson.null}}))
add(KEYS[4], 'completed', cjson.encode({{status = ARGV[1]}}))
redis.call('EXPIRE', KEYS[4], {EVENTS_TTL_S})
publish(KEYS[1])
return 1
"""
)

# KEYS job, frames, events, previews · ARGV kind, data, frame or ""
# Tells of something while its job lives. With a frame it is that frame's preview, unless the frame is finished.
TELL: Final = (
    _EVENTS
    + """
if not is_live(redis.call('HGET', KEYS[1], 'status')) then return 0 end
if ARGV[3] ~= '' then
  if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 1 then return 0 end
  redis.call('HSET', KEYS[4], ARGV[3], ARGV[2])
end
add(KEYS[3], ARGV[1], ARGV[2])
publish(KEYS[1])
return 1
"""
)
