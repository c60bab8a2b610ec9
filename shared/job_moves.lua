-- The job store's moves. Valkey runs each of them as one step: what changes together stands in one move, so no kill
-- between two commands can leave a job half moved. A move begins at its `--@ name` line; what stands before the first
-- is put before all of them (`shared.job_moves` loads this file). Every move can be made twice without harm.
--
-- Time is Valkey's own: the clocks of workers and gateways may be wrong.

local P = 'riffarm:'
local EVENTS_KEPT = 500
local EVENTS_TTL_S = 3600
local KEYS_KEPT_MS = 24 * 3600 * 1000
local CLASSES = {'interactive', 'normal', 'bulk'}
local KINDS = {'render', 'sound', 'deliver'}
local KIND_OF_ITEM = {b = 'render', c = 'sound', d = 'deliver'}
local STAGE_OF_ITEM = {b = 'rendering', c = 'sounding', d = 'encoding'}
local MAY_START = {queued = true, running = true}
local IS_LIVE = {queued = true, running = true, paused = true}
local TEXTS = {'status', 'stage', 'tenant', 'priority', 'render_queue', 'ready:render', 'ready:sound', 'ready:deliver'}
local NUMBERS = {
  'audio_s', 'created_ms', 'expires_ms', 'cancel_ms', 'started_ms', 'batches_total', 'chunks_total', 'window',
  'next_batch', 'batches_done', 'next_chunk', 'chunks_done', 'delivering', 'frames_reused', 'frames_total',
}
local FIELDS = {unpack(TEXTS)}
for _, name in ipairs(NUMBERS) do FIELDS[#FIELDS + 1] = name end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function key(id, part) return P .. 'job:' .. id .. (part or '') end

-- A job's moving fields; nil when there is no such job.
local function load(id)
  local values = redis.call('HMGET', key(id), unpack(FIELDS))
  if not values[1] then return nil end
  local job = {id = id}
  for i, name in ipairs(TEXTS) do job[name] = values[i] or '' end
  for i, name in ipairs(NUMBERS) do job[name] = tonumber(values[#TEXTS + i] or 0) or 0 end
  return job
end

local function set(job, ...)
  local pairs_ = {...}
  for i = 1, #pairs_, 2 do job[pairs_[i]] = pairs_[i + 1] end
  redis.call('HSET', key(job.id), ...)
end

local function tell(id, kind, data)
  redis.call('XADD', key(id, ':events'), 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', kind, 'data', data)
end

local function publish(id) redis.call('PUBLISH', P .. 'events', id) end

-- Notes what happens to a job on its way if its webhook asks for that; a courier makes a delivery of it.
local function note_news(id, event, webhook)
  if webhook and string.find(webhook, '"' .. event .. '"', 1, true) then
    redis.call('ZADD', P .. 'news', 'NX', now_ms(), id .. ' ' .. event)
  end
end

-- Adds to what the farm has done since Valkey was last empty.
local function total(name, more)
  if more ~= 0 then redis.call('HINCRBY', P .. 'totals', name, more) end
end

local function tell_status(job)
  local stage = job.stage ~= '' and job.stage or cjson.null
  tell(job.id, 'status', cjson.encode({status = job.status, stage = stage}))
  publish(job.id)
end

-- What is there to do. -----------------------------------------------------------------------------------------------

-- Batches not yet begun are a number, not a list: a ten-hour track takes no more room in the queue than a clip.
local function has_fresh_batch(job)
  return job.next_batch < job.batches_total and job.next_batch - job.batches_done < job.window
end

local function has_work(job, kind)
  return job['ready:' .. kind] ~= '' or kind == 'render' and has_fresh_batch(job)
end

local function remaining(job, kind)
  if kind == 'render' then return job.batches_total - job.batches_done end
  if kind == 'sound' then return math.max(1, job.chunks_total) - job.chunks_done end
  return 1
end

-- Whether a job should have begun by now and has not.
local function has_expired(job, now)
  return job.status == 'queued' and job.started_ms == 0 and job.expires_ms > 0 and job.expires_ms < now
end

local function queue_of(job, kind) return kind == 'render' and job.render_queue or kind end

-- Has the job listed where its work can be found, or taken off: in one sorted set for each queue, class and tenant,
-- by what remains to be done, and in another by age. Adds the queue to `needy` when nobody is told to look there.
local function offer(job, kind, needy)
  local queue = queue_of(job, kind)
  if queue == '' then return end
  local line = P .. 'queue:' .. queue .. ':' .. job.priority
  local place = line .. ':' .. job.tenant
  if MAY_START[job.status] and has_work(job, kind) then
    if redis.call('ZADD', place, remaining(job, kind), job.id) == 1 then
      redis.call('ZADD', place .. ':age', job.created_ms, job.id)
      if redis.call('ZCARD', place) == 1 then
        redis.call('RPUSH', line, job.tenant)
        redis.call('SADD', P .. 'queues', queue)
      end
    end
    if needy and redis.call('LLEN', queue) == 0 then needy[#needy + 1] = queue end
  elseif redis.call('ZREM', place, job.id) == 1 then
    redis.call('ZREM', place .. ':age', job.id)
    if redis.call('ZCARD', place) == 0 then redis.call('LREM', line, 0, job.tenant) end
  end
end

local function offer_all(job, needy)
  for _, kind in ipairs(KINDS) do offer(job, kind, needy) end
end

local function kind_of_item(job, item)
  -- A conversion is one delivery that makes sound.
  if item == 'deliver' and job.chunks_total == 0 then return 'sound' end
  return KIND_OF_ITEM[string.sub(item, 1, 1)]
end

local function make_ready(job, item)
  local field = 'ready:' .. kind_of_item(job, item)
  if not string.find(' ' .. job[field] .. ' ', ' ' .. item .. ' ', 1, true) then
    set(job, field, job[field] == '' and item or item .. ' ' .. job[field])
  end
end

-- The items that wait in a job's ready fields, as a set.
local function ready_items(job)
  local items = {}
  for _, kind in ipairs(KINDS) do
    for item in string.gmatch(job['ready:' .. kind], '%S+') do items[item] = true end
  end
  return items
end

local function audio_ms(audio_s) return math.floor((tonumber(audio_s) or 0) * 1000 + 0.5) end

-- What of a job waits or runs in a queue: items, the job itself, ms of the sound that the items are for, frames. Whoever
-- changes what it is made of adds the difference, so that the farm's counts are the sums of this over all jobs.
local function backlog_of(job, kind)
  local left, all = 1, 1
  if kind == 'render' then
    left, all = job.batches_total - job.batches_done, job.batches_total
  elseif job.chunks_total == 0 then
    left = kind == 'sound' and 1 or 0
  elseif kind == 'sound' then
    left, all = job.chunks_total - job.chunks_done, job.chunks_total
  end
  if left == 0 then return {0, 0, 0, 0} end
  local frames = kind == 'render' and job.frames_total - redis.call('HLEN', key(job.id, ':frames')) or 0
  return {left, 1, math.floor(audio_ms(job.audio_s) * left / all + 0.5), frames}
end

local BACKLOGS = {'backlog', 'backlog:jobs', 'backlog:audio', 'backlog:frames'}

local function add_backlog(queue, counts, sign)
  for i, list in ipairs(BACKLOGS) do
    if counts[i] ~= 0 then redis.call('HINCRBY', P .. list, queue, sign * counts[i]) end
  end
end

local function count_backlog(job, sign)
  for _, kind in ipairs(KINDS) do add_backlog(queue_of(job, kind), backlog_of(job, kind), sign) end
end

-- The sound of a tenant's jobs that have not ended.
local function count_audio(job, sign)
  local ms = sign * audio_ms(job.audio_s)
  if ms ~= 0 and redis.call('HINCRBY', P .. 'audio', job.tenant, ms) <= 0 then
    redis.call('HDEL', P .. 'audio', job.tenant)
  end
end

-- Leases. ------------------------------------------------------------------------------------------------------------

-- Who holds an item: its token and its worker; nil when nobody does.
local function holder(id, item)
  local lease = redis.call('HGET', key(id, ':leases'), item)
  if not lease then return nil end
  return string.match(lease, '^(%d+) (.+)$')
end

local function drop_lease(id, item)
  redis.call('HDEL', key(id, ':leases'), item)
  redis.call('ZREM', P .. 'leases', id .. ' ' .. item)
end

-- An attempt whose lease is gone is late: what it reports is refused.
local function is_late(id, item, token) return holder(id, item) ~= token end

-- The part of a worker's id that is its name.
local function name_of(worker) return string.match(worker, '^(.*)/[^/]*$') or worker end

-- A job's way on. ----------------------------------------------------------------------------------------------------

-- Makes ready what may start now: chunk `chunk`, if it is the next and the frames it needs are there, and the delivery.
local function move_on(job, chunk, needed)
  local is_next = job.next_chunk == chunk and job.next_chunk == job.chunks_done and chunk < job.chunks_total
  if is_next and #needed > 0 then
    for _, found in ipairs(redis.call('HMGET', key(job.id, ':frames'), unpack(needed))) do
      if not found then is_next = false break end
    end
  end
  if is_next then
    set(job, 'next_chunk', chunk + 1)
    make_ready(job, 'c' .. chunk)
  end
  if job.delivering == 0 and job.chunks_done == job.chunks_total and job.batches_done == job.batches_total then
    set(job, 'delivering', 1)
    make_ready(job, 'deliver')
  end
end

-- The list of a tenant's jobs that ended as this one did.
local function ended_as(job) return P .. 'jobs:' .. job.status .. ':' .. job.tenant end

-- Ends a job. What was under way goes back to what is ready, so that a retry begins where this ended; without leases
-- those who still work on it are late.
local function finish(job, status, fields)
  -- What frees memory comes first: so it is not refused when there is none left.
  redis.call('SREM', P .. 'jobs:active', job.id)
  if redis.call('ZREM', P .. 'jobs:live:' .. job.tenant, job.id) == 1 then count_audio(job, -1) end
  if MAY_START[job.status] then count_backlog(job, -1) end
  for _, item in ipairs(redis.call('HKEYS', key(job.id, ':leases'))) do
    drop_lease(job.id, item)
    make_ready(job, item)
  end
  local now = now_ms()
  set(job, 'status', status, 'stage', '', 'finished_ms', now, 'announced', 0, unpack(fields))
  total('jobs_' .. status, 1)
  if status == 'succeeded' then
    total('audio_ms', audio_ms(job.audio_s))
    total('encode_ms', tonumber(redis.call('HGET', key(job.id), 'encode_ms') or 0))
    local factor = audio_ms(job.audio_s) / math.max(1, now - job.created_ms)
    local before = tonumber(redis.call('HGET', P .. 'totals', 'realtime_factor') or factor)
    redis.call('HSET', P .. 'totals', 'realtime_factor', string.format('%.4f', before + (factor - before) / 16))
  end
  redis.call('ZREM', P .. 'jobs:queued', job.id)
  redis.call('ZREM', P .. 'jobs:expiring', job.id)
  redis.call('ZREM', P .. 'jobs:deadlines', job.id)
  redis.call('SREM', P .. 'jobs:running', job.id)
  redis.call('SADD', P .. 'jobs:ended', job.id)
  redis.call('ZADD', ended_as(job), job.created_ms, job.id)
  redis.call('DEL', key(job.id, ':previews'))
  offer_all(job)
  tell_status(job)
  tell(job.id, 'completed', cjson.encode({status = status}))
  redis.call('EXPIRE', key(job.id, ':events'), EVENTS_TTL_S)
  publish(job.id)
end

local function open(job, status)
  set(job, 'status', status)
  redis.call('SADD', P .. 'jobs:active', job.id)
  if redis.call('ZADD', P .. 'jobs:live:' .. job.tenant, job.created_ms, job.id) == 1 then count_audio(job, 1) end
  if job.cancel_ms > 0 then redis.call('ZADD', P .. 'jobs:deadlines', job.cancel_ms, job.id) end
  if status == 'queued' then
    redis.call('ZADD', P .. 'jobs:queued', job.created_ms, job.id)
    if job.expires_ms > 0 then redis.call('ZADD', P .. 'jobs:expiring', job.expires_ms, job.id) end
  elseif status == 'running' then
    redis.call('SADD', P .. 'jobs:running', job.id)
  end
  if MAY_START[status] then count_backlog(job, 1) end
end

-- The lists by which a job is found, all by time of creation, but for those of what it is just now.
local function lists_of(job)
  local said = redis.call('HMGET', key(job.id), 'batch_id', 'type', 'labels')
  local lists = {P .. 'jobs', P .. 'jobs:of:' .. job.tenant}
  if said[1] then lists[#lists + 1] = P .. 'jobs:batch:' .. job.tenant .. ':' .. said[1] end
  if said[2] then lists[#lists + 1] = P .. 'jobs:type:' .. job.tenant .. ':' .. said[2] end
  for name, value in pairs(cjson.decode(said[3] or '{}')) do
    lists[#lists + 1] = P .. 'jobs:label:' .. job.tenant .. ':' .. name .. '=' .. value
  end
  return lists
end

-- Records a job, has its work listed if it lives, or the news of its end told; the queues to send a ticket to.
local function accept(id, fields)
  redis.call('HSET', key(id), unpack(fields))
  local job, needy = load(id), {}
  for _, list in ipairs(lists_of(job)) do redis.call('ZADD', list, job.created_ms, id) end
  if IS_LIVE[job.status] then
    open(job, job.status)
    offer_all(job, needy)
  else
    redis.call('ZADD', ended_as(job), job.created_ms, id)
    if redis.call('HGET', key(id), 'announced') ~= '1' then redis.call('SADD', P .. 'jobs:ended', id) end
  end
  return needy
end

--@ create
-- ARGV id, the most jobs of the farm, of its tenant, and ms of sound of its tenant ("" each: no limit), field, value, …
-- Records a job and has its work listed; its place among those not begun or 0, and the queues to send a ticket to; or
-- which limit keeps it away, by the rule of shared/quotas.py. A job that is there already stays as it is.
if redis.call('EXISTS', key(ARGV[1])) == 1 then return {0} end
local fields = {unpack(ARGV, 5)}
local told = {}
for i = 1, #fields, 2 do told[fields[i]] = fields[i + 1] end
local tenant, ms = told.tenant, audio_ms(told.audio_s)
local most_jobs_of_farm, most_jobs, most_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if most_jobs_of_farm and redis.call('SCARD', P .. 'jobs:active') >= most_jobs_of_farm then return {'farm'} end
if most_jobs and redis.call('ZCARD', P .. 'jobs:live:' .. tenant) >= most_jobs then return {'jobs'} end
if most_ms and ms > 0 and (redis.call('HGET', P .. 'audio', tenant) or 0) + ms > most_ms then return {'audio'} end
local needy = accept(ARGV[1], fields)
total('jobs_accepted', 1)
return {(redis.call('ZRANK', P .. 'jobs:queued', ARGV[1]) or -1) + 1, unpack(needy)}

--@ claim
-- ARGV key's mark, request's print, token, lease in ms · Takes an idempotency key, unless somebody has it.
-- {'new', ms now, whether Redis has all keys, as far as is known} | {'again', ms of the first time} when whoever had it is gone |
-- {'answered', answer} | {'busy'} | {'another'} when it is another request's.
local place, now = P .. 'idempotency:' .. ARGV[1], now_ms()
local said = redis.call('HMGET', place, 'print', 'answer', 'until_ms', 'at_ms')
if not said[1] then
  redis.call('HSET', place, 'print', ARGV[2], 'token', ARGV[3], 'until_ms', now + ARGV[4], 'at_ms', now)
  redis.call('PEXPIREAT', place, now + KEYS_KEPT_MS)
  return {'new', now, redis.call('EXISTS', P .. 'marker', P .. 'idempotency_whole')}
end
if said[1] ~= ARGV[2] then return {'another'} end
if said[2] then return {'answered', said[2]} end
if tonumber(said[3]) > now then return {'busy'} end
redis.call('HSET', place, 'token', ARGV[3], 'until_ms', now + ARGV[4])
return {'again', tonumber(said[4])}

--@ whole
-- Notes that no idempotency key is lost: storage has no job that is not here.
return redis.call('SET', P .. 'idempotency_whole', 1)

--@ settle
-- ARGV key's mark, token, field or "", value · Notes of a key that we have its 'answer', 'at_ms', when its request was first
-- taken, or 'until_ms', when we give it up; without a field the key is free. 0 when somebody else has it by now.
local place = P .. 'idempotency:' .. ARGV[1]
if redis.call('HGET', place, 'token') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then return redis.call('DEL', place) end
redis.call('HSET', place, ARGV[3], ARGV[4])
return 1

--@ find
-- ARGV lists that have all jobs wanted (JSON), newest and oldest time of creation, id to be below, most to find, most to
-- look at, status, type, labels (JSON) · {id come to or '' at the list's end, id, …}, newest first. The shortest list is
-- looked through.
local below, most, left = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local status, kind, labels = ARGV[7], ARGV[8], cjson.decode(ARGV[9])
local has_labels = next(labels) ~= nil

local function is_wanted(id)
  if status == '' and kind == '' and not has_labels then return true end
  local said = redis.call('HMGET', key(id), 'status', 'type', 'labels')
  if status ~= '' and said[1] ~= status or kind ~= '' and said[2] ~= kind then return false end
  if has_labels then
    local own = cjson.decode(said[3] or '{}')
    for name, value in pairs(labels) do
      if own[name] ~= value then return false end
    end
  end
  return true
end

local list, length
for _, one in ipairs(cjson.decode(ARGV[1])) do
  local size = redis.call('ZCARD', one)
  if not length or size < length then list, length = one, size end
end
local offset, found = 0, {}
while true do
  local some = redis.call('ZRANGE', list, ARGV[2], ARGV[3], 'BYSCORE', 'REV', 'LIMIT', offset, 200)
  if #some == 0 then return {'', unpack(found)} end
  for _, id in ipairs(some) do
    if id < below then
      left = left - 1
      if is_wanted(id) then found[#found + 1] = id end
      if #found == most or left == 0 then return {id, unpack(found)} end
    end
  end
  offset = offset + #some
end

--@ restore
-- ARGV id, fields and values, finished frames, finished batches (JSON) · Records a job with what storage has of it; {0}
-- when it is there already, else {1, queue to send a ticket to, …}.
local id = ARGV[1]
if redis.call('EXISTS', key(id)) == 1 then return {0} end
local records = {}
local function flush()
  if records[1] then redis.call('HSET', key(id, ':frames'), unpack(records)) end
  records = {}
end
for _, frame in ipairs(cjson.decode(ARGV[3])) do
  records[#records + 1] = frame
  records[#records + 1] = string.format('{"frame":%d,"reused":true,"attempts":0}', frame)
  if #records >= 1000 then flush() end
end
flush()
for _, batch in ipairs(cjson.decode(ARGV[4])) do redis.call('SADD', key(id, ':done'), batch) end
local needy = accept(id, cjson.decode(ARGV[2]))
tell_status(load(id))
-- Its client may send the request once more.
local mark, print = string.match(redis.call('HGET', key(id), 'origin') or '', '^(%x+) (%x+)$')
local at = tonumber(string.sub(id, 5, 16), 16)
if mark and at + KEYS_KEPT_MS > now_ms() and redis.call('EXISTS', P .. 'idempotency:' .. mark) == 0 then
  redis.call('HSET', P .. 'idempotency:' .. mark, 'print', print, 'at_ms', at, 'until_ms', 0)
  redis.call('PEXPIREAT', P .. 'idempotency:' .. mark, at + KEYS_KEPT_MS)
end
return {1, unpack(needy)}

--@ take
-- ARGV queue, worker's name, worker's id, lease in ms · Takes the next item of a queue under a lease.
-- {} when there is none, {'no', why} when this worker may take none.
local queue, name, worker, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('HEXISTS', P .. 'draining', worker) == 1 then return {'no', 'draining'} end
if redis.call('HEXISTS', P .. 'benched', name) == 1 then return {'no', 'benched'} end
local kind = string.match(queue, '^[^.]+')
local now = now_ms()
local turn = redis.call('HINCRBY', P .. 'turns', queue, 1)
-- The urgent first, but every class has its share: one turn in eight each for those behind.
local order = CLASSES
if turn % 8 == 0 then order = {'bulk', 'normal', 'interactive'} end
if turn % 8 == 4 then order = {'normal', 'interactive', 'bulk'} end
-- The next job of those listed at a place. The one nearest its end first, so that a clip passes an hour's track; every
-- third turn of the place the oldest, so that a track comes to its end however many clips there are.
local function first_of(place, its_turn)
  return redis.call('ZRANGE', place .. (its_turn % 3 == 0 and ':age' or ''), 0, 0)[1]
end

local function take_item(job)
  local field = 'ready:' .. kind
  local item, rest = string.match(job[field], '^(%S+) ?(.*)$')
  if item then
    set(job, field, rest)
  else
    item = 'b' .. job.next_batch
    set(job, 'next_batch', job.next_batch + 1)
  end
  return item
end

-- Counted, but from the present time on in an empty Valkey: whoever works on from before it was emptied is late too.
local function new_token()
  local token = redis.call('INCR', P .. 'tokens')
  if token == 1 then
    local time = redis.call('TIME')
    token = time[1] * 1000000 + time[2]
    redis.call('SET', P .. 'tokens', string.format('%.0f', token))
  end
  return string.format('%.0f', token)
end

local function begin(job, item)
  local stage = STAGE_OF_ITEM[string.sub(item, 1, 1)]
  if job.status == 'queued' then
    redis.call('ZREM', P .. 'jobs:queued', job.id)
    redis.call('ZREM', P .. 'jobs:expiring', job.id)
    redis.call('SADD', P .. 'jobs:running', job.id)
    set(job, 'status', 'running', 'stage', stage)
    if job.started_ms == 0 then
      set(job, 'started_ms', now)
      note_news(job.id, 'job.started', redis.call('HGET', key(job.id), 'webhook'))
    end
    tell_status(job)
  elseif job.stage ~= stage then
    set(job, 'stage', stage)
    tell_status(job)
  end
end

for _, class in ipairs(order) do
  local line = P .. 'queue:' .. queue .. ':' .. class
  for _ = 1, redis.call('LLEN', line) do
    -- Tenants in turn.
    local tenant = redis.call('LMOVE', line, line, 'LEFT', 'RIGHT')
    local place = line .. ':' .. tenant
    local its_turn = redis.call('HINCRBY', P .. 'turns', place, 1)
    local id = first_of(place, its_turn)
    while id do
      local job = load(id)
      if job and MAY_START[job.status] and has_work(job, kind) and not has_expired(job, now) then
        local item = take_item(job)
        begin(job, item)
        local token = new_token()
        redis.call('HSET', key(id, ':leases'), item, token .. ' ' .. worker)
        redis.call('ZADD', P .. 'leases', now + lease_ms, id .. ' ' .. item)
        local starts = redis.call('HINCRBY', key(id, ':attempts'), item .. ':starts', 1)
        offer(job, kind)
        local more = 0
        for _, one in ipairs(CLASSES) do
          if redis.call('EXISTS', P .. 'queue:' .. queue .. ':' .. one) == 1 then more = 1 break end
        end
        if more == 1 and redis.call('LLEN', queue) > 0 then more = 0 end
        local told = redis.call('HMGET', key(id), 'input', 'sources', 'request_id', 'traceparent')
        return {id, item, token, starts, told[1], told[2], job.next_chunk, more, told[3] or '', told[4] or ''}
      end
      redis.call('ZREM', place, id)
      redis.call('ZREM', place .. ':age', id)
      id = first_of(place, its_turn)
    end
    if redis.call('ZCARD', place) == 0 then redis.call('LREM', line, 0, tenant) end
  end
end
return {}

--@ renew
-- ARGV id, item, token, worker's id, lease in ms · Whether the lease still holds, the job's status or '', and whether
-- the worker is to stop.
local id, item = ARGV[1], ARGV[2]
local is_held = not is_late(id, item, ARGV[3])
if is_held then redis.call('ZADD', P .. 'leases', 'XX', now_ms() + ARGV[5], id .. ' ' .. item) end
local status = redis.call('HGET', key(id), 'status') or ''
return {is_held and 1 or 0, status, redis.call('HEXISTS', P .. 'draining', ARGV[4])}

--@ record
-- ARGV id, item, token, starts, then frame, record, … · Adds finished frames; 0 when the attempt is late. A new frame
-- shows that the item is no poison.
local id, item = ARGV[1], ARGV[2]
if is_late(id, item, ARGV[3]) then return 0 end
local frames, numbers = key(id, ':frames'), {}
for i = 5, #ARGV, 2 do numbers[#numbers + 1] = ARGV[i] end
-- Many frames in few commands: of all moves this one is made most often.
local known, new, fields, reused = redis.call('HMGET', frames, unpack(numbers)), {}, {}, 0
for i, number in ipairs(numbers) do
  if not known[i] then
    local record = cjson.decode(ARGV[2 * i + 4])
    record.frame, record.attempts = tonumber(number), tonumber(ARGV[4])
    local told = cjson.encode(record)
    new[#new + 1] = number
    fields[#fields + 1], fields[#fields + 2] = number, told
    if record.reused then
      reused = reused + 1
    else
      local message = string.format('frame %d: %.2f s on %s', record.frame, record.s, record.worker)
      tell(id, 'log', cjson.encode({message = message}))
    end
    tell(id, 'frame', told)
  end
end
if #new == 0 then return 1 end
redis.call('HSET', frames, unpack(fields))
redis.call('HDEL', key(id, ':previews'), unpack(new))
if reused > 0 then redis.call('HINCRBY', key(id), 'frames_reused', reused) end
total('frames_reused', reused)
total('frames_rendered', #new - reused)
if reused < #new then redis.call('HDEL', key(id, ':attempts'), item) end
local job = redis.call(
  'HMGET', key(id), 'frames_reused', 'chunks_done', 'started_ms', 'webhook', 'status', 'render_queue'
)
if MAY_START[job[5]] then redis.call('HINCRBY', P .. 'backlog:frames', job[6], -#new) end
tell(id, 'progress', cjson.encode({
  frames_done = redis.call('HLEN', frames),
  frames_reused = tonumber(job[1] or 0),
  chunks_done = tonumber(job[2] or 0),
  started_ms = tonumber(job[3] or 0),
}))
publish(id)
note_news(id, 'job.progress', job[4])
return 1

--@ stage
-- ARGV id, item, token, stage · Says where the job is now; 0 when the attempt is late.
local job = load(ARGV[1])
if not job or is_late(job.id, ARGV[2], ARGV[3]) then return 0 end
if job.stage ~= ARGV[4] then
  set(job, 'stage', ARGV[4])
  tell_status(job)
end
return 1

--@ show
-- ARGV id, item, token, outputs in JSON · What can be heard before the job's end; 0 when the attempt is late.
if is_late(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('HSET', key(ARGV[1]), 'outputs', ARGV[4])
return 1

--@ done
-- ARGV id, item, token, ms, of these on a GPU, worker's name, chunk, the frames it needs, … · Counts an item as done,
-- once, and makes ready what may follow. {0} when the attempt is late, else {1, next chunk or -1, queue for a ticket, …}.
local id, item = ARGV[1], ARGV[2]
local job = load(id)
if not job or is_late(id, item, ARGV[3]) then return {0} end
local kind, ms, needy = kind_of_item(job, item), tonumber(ARGV[4]), {}
local queue = queue_of(job, kind)
drop_lease(id, item)
redis.call('HDEL', key(id, ':attempts'), item, item .. ':starts', item .. ':reason')
redis.call('HDEL', P .. 'blame', ARGV[6])
local before = backlog_of(job, kind)
local pace = tonumber(redis.call('HGET', P .. 'pace', queue) or ms)
redis.call('HSET', P .. 'pace', queue, string.format('%.1f', pace + (ms - pace) / 8))
if kind == 'render' then
  redis.call('SADD', key(id, ':done'), string.sub(item, 2))
  job.batches_done = redis.call('HINCRBY', key(id), 'batches_done', 1)
  redis.call('HINCRBY', key(id), 'render_ms', ms)
else
  job.chunks_done = redis.call('HINCRBY', key(id), 'chunks_done', 1)
  redis.call('HINCRBY', key(id), 'sound_ms', ms)
  tell(id, 'progress', cjson.encode({
    frames_done = redis.call('HLEN', key(id, ':frames')),
    frames_reused = job.frames_reused,
    chunks_done = job.chunks_done,
    started_ms = job.started_ms,
  }))
  publish(id)
  note_news(id, 'job.progress', redis.call('HGET', key(id), 'webhook'))
end
if MAY_START[job.status] then
  local change = backlog_of(job, kind)
  for i, count in ipairs(before) do change[i] = change[i] - count end
  add_backlog(queue, change, 1)
end
if ARGV[5] ~= '0' then redis.call('HINCRBY', key(id), 'gpu_ms', ARGV[5]) end
total(kind .. '_ms', ms)
total('gpu_ms', tonumber(ARGV[5]))
move_on(job, tonumber(ARGV[7]), {unpack(ARGV, 8)})
offer_all(job, needy)
local waits = job.next_chunk < job.chunks_total and job.next_chunk == job.chunks_done
return {1, waits and job.next_chunk ~= tonumber(ARGV[7]) and job.next_chunk or -1, unpack(needy)}

--@ move
-- ARGV id, chunk, the frames it needs, … · Makes ready what may start now; the queues to send a ticket to.
local job, needy = load(ARGV[1]), {}
if not job or not IS_LIVE[job.status] then return {} end
move_on(job, tonumber(ARGV[2]), {unpack(ARGV, 3)})
offer_all(job, needy)
return needy

--@ give_back
-- ARGV id, item, why ('token' | 'worker' | 'expired'), token or worker's id, worker's name, reason or "", fence or ""
-- Takes an item from an attempt that will not finish it and makes it ready again. With a reason it is counted: against
-- the item, and against the worker when the attempts that it lost in a row are of three jobs.
-- {0} when the item is not (or no longer) held so, else {1, times lost, queue to send a ticket to, …}.
local id, item, why, who, name, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if ARGV[7] ~= '' and redis.call('GET', P .. 'sweeper') ~= ARGV[7] then return {0} end
local token, worker = holder(id, item)
if why == 'expired' then
  local expiry = redis.call('ZSCORE', P .. 'leases', id .. ' ' .. item)
  if not expiry or tonumber(expiry) > now_ms() then return {0} end
elseif (why == 'token' and token or worker) ~= who then
  return {0}
end
drop_lease(id, item)
local job, needy, losses = load(id), {}, 0
if not token or not job then return {0} end
make_ready(job, item)
if reason ~= '' then
  losses = redis.call('HINCRBY', key(id, ':attempts'), item, 1)
  redis.call('HSET', key(id, ':attempts'), item .. ':reason', reason)
  tell(id, 'log', cjson.encode({message = item .. ' begins anew: ' .. reason}))
  if name == '' then name = name_of(worker) end
  local blame = redis.call('HGET', P .. 'blame', name) or ''
  if not string.find(blame, id, 1, true) then blame = blame .. id .. ' ' end
  redis.call('HSET', P .. 'blame', name, blame)
  local _, jobs = string.gsub(blame, '%S+', '')
  if jobs >= 3 then redis.call('HSET', P .. 'benched', name, now_ms() .. ' ' .. reason) end
end
offer(job, kind_of_item(job, item), needy)
publish(id)
return {1, losses, unpack(needy)}

--@ reopen
-- ARGV id, item, token, chunk, number of batches, batch, …, frame, … · Storage lost what an item needs: these batches
-- are to be done again, and the sound from this chunk on. 0 when the attempt is late, else the queues for a ticket.
local id, item, chunk, batches = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local job, needy = load(id), {}
if not job or is_late(id, item, ARGV[3]) then return {0} end
drop_lease(id, item)
if MAY_START[job.status] then count_backlog(job, -1) end
if string.sub(item, 1, 1) == 'b' then
  make_ready(job, item)
else
  set(job, 'next_chunk', chunk, 'chunks_done', chunk, 'delivering', 0)
end
for i = 5 + batches, 6, -1 do
  local batch = 'b' .. ARGV[i]
  if redis.call('SREM', key(id, ':done'), ARGV[i]) == 1 then
    set(job, 'batches_done', job.batches_done - 1)
    make_ready(job, batch)
  elseif holder(id, batch) then
    -- Under way, but it found a frame that is lost now: it begins anew too.
    drop_lease(id, batch)
    make_ready(job, batch)
  end
end
for i = 6 + batches, #ARGV do redis.call('HDEL', key(id, ':frames'), ARGV[i]) end
if MAY_START[job.status] then count_backlog(job, 1) end
offer_all(job, needy)
return {1, unpack(needy)}

--@ finish
-- ARGV id, status, item or "", token or "", field, value, … · Ends a job; 0 when it has ended, or the attempt is late.
local job = load(ARGV[1])
if not job or not IS_LIVE[job.status] then return 0 end
if ARGV[3] ~= '' and is_late(job.id, ARGV[3], ARGV[4]) then return 0 end
if ARGV[2] == 'succeeded' then
  local _, worker = holder(job.id, ARGV[3])
  if worker then redis.call('HDEL', P .. 'blame', name_of(worker)) end
  drop_lease(job.id, ARGV[3])
end
finish(job, ARGV[2], {unpack(ARGV, 5)})
return 1

--@ expire
-- ARGV id, error in JSON · Fails a job that was to be started by now and was not.
local job = load(ARGV[1])
if not job or not has_expired(job, now_ms()) then return 0 end
finish(job, 'failed', {'error', ARGV[2]})
return 1

--@ pause
-- ARGV id · What runs comes to its end, nothing more is begun.
local job = load(ARGV[1])
if not job or not MAY_START[job.status] then return 0 end
count_backlog(job, -1)
set(job, 'status', 'paused')
redis.call('ZREM', P .. 'jobs:queued', job.id)
redis.call('ZREM', P .. 'jobs:expiring', job.id)
redis.call('SREM', P .. 'jobs:running', job.id)
offer_all(job)
tell_status(job)
return 1

--@ resume
-- ARGV id · {0} when the job is not paused, else {1, queue to send a ticket to, …}.
local job, needy = load(ARGV[1]), {}
if not job or job.status ~= 'paused' then return {0} end
open(job, job.started_ms > 0 and 'running' or 'queued')
offer_all(job, needy)
tell_status(job)
return {1, unpack(needy)}

--@ retry
-- ARGV id, retries until now or "" · A failed or canceled job goes on from what it has. {0} for any other, and for one
-- that another has retried, else {1, queue for a ticket, …}.
local job, needy = load(ARGV[1]), {}
if not job or (job.status ~= 'failed' and job.status ~= 'canceled') then return {0} end
if ARGV[2] ~= '' and (redis.call('HGET', key(job.id), 'runs') or '0') ~= ARGV[2] then return {0} end
redis.call('HDEL', key(job.id), 'started_ms', 'finished_ms', 'error', 'announced', 'expires_ms', 'cancel_ms')
redis.call('DEL', key(job.id, ':attempts'))
redis.call('SREM', P .. 'jobs:ended', job.id)
redis.call('ZREM', ended_as(job), job.id)
redis.call('PERSIST', key(job.id, ':events'))
redis.call('HINCRBY', key(job.id), 'runs', 1)
job.started_ms, job.expires_ms, job.cancel_ms = 0, 0, 0
open(job, 'queued')
offer_all(job, needy)
tell_status(job)
return {1, unpack(needy)}

--@ announced
-- ARGV id, retries before this end · Notes that all that follows from a job's end is done; 0 when it was retried.
local job = load(ARGV[1])
if not job or IS_LIVE[job.status] then return 0 end
if (redis.call('HGET', key(job.id), 'runs') or '0') ~= ARGV[2] then return 0 end
set(job, 'announced', 1)
redis.call('SREM', P .. 'jobs:ended', job.id)
return 1

--@ warn
-- ARGV id, sentence · Attaches a sentence to a job; one that was deleted leaves no key behind.
if redis.call('EXISTS', key(ARGV[1])) == 0 then return 0 end
return redis.call('SADD', key(ARGV[1], ':warnings'), ARGV[2])

--@ load
-- ARGV tenant, … · What has not ended: the farm's jobs, and for each tenant its jobs and its milliseconds of sound.
local loads = {redis.call('SCARD', P .. 'jobs:active')}
for _, tenant in ipairs(ARGV) do
  loads[#loads + 1] = redis.call('ZCARD', P .. 'jobs:live:' .. tenant)
  loads[#loads + 1] = tonumber(redis.call('HGET', P .. 'audio', tenant) or 0)
end
return loads

--@ view
-- ARGV id, … · All that is to be told of each job: its fields (none: there is no such job), how many frames are
-- finished, its warnings, its place among those not begun (or false), the newest previews.
local views = {}
for i, id in ipairs(ARGV) do
  views[i] = {
    redis.call('HGETALL', key(id)),
    redis.call('HLEN', key(id, ':frames')),
    redis.call('SMEMBERS', key(id, ':warnings')),
    redis.call('ZRANK', P .. 'jobs:queued', id),
    redis.call('HVALS', key(id, ':previews')),
  }
end
return views

--@ forget
-- ARGV id · Removes an ended job; its objects are looked for once more later. 0 when it lives or is not there.
local id = ARGV[1]
local job = load(id)
if not job or IS_LIVE[job.status] then return 0 end
local lists = lists_of(job)
lists[#lists + 1] = ended_as(job)
local parts = {'', ':frames', ':done', ':attempts', ':warnings', ':events', ':previews', ':leases', ':deliveries'}
for _, part in ipairs(parts) do
  redis.call('DEL', key(id, part))
end
for _, list in ipairs(lists) do redis.call('ZREM', list, id) end
redis.call('SREM', P .. 'jobs:ended', id)
redis.call('ZADD', P .. 'jobs:deleted', now_ms(), id)
publish(id)
return 1

--@ tell
-- ARGV id, kind, data, frame or "" · Tells of something while its job lives. With a frame it is that frame's preview,
-- unless the frame is finished.
local id = ARGV[1]
if not IS_LIVE[redis.call('HGET', key(id), 'status')] then return 0 end
if ARGV[4] ~= '' then
  if redis.call('HEXISTS', key(id, ':frames'), ARGV[4]) == 1 then return 0 end
  redis.call('HSET', key(id, ':previews'), ARGV[4], ARGV[3])
end
tell(id, ARGV[2], ARGV[3])
publish(id)
return 1

--@ overdue
-- ARGV fence, lease in ms, longest pause between two sweeps in ms · The leases that ran out, as 'id item'. After a
-- longer pause (Valkey or the sweeper was away, or a clock jumped) nobody could renew: all have one lease more.
if redis.call('GET', P .. 'sweeper') ~= ARGV[1] then return {} end
local now, lease_ms = now_ms(), tonumber(ARGV[2])
local since = now - tonumber(redis.call('GET', P .. 'swept') or 0)
redis.call('SET', P .. 'swept', now)
local is_gap = since < 0 or since > tonumber(ARGV[3])
local low, high = is_gap and '-inf' or now + 2 * lease_ms, is_gap and now + lease_ms or '+inf'
for _, lease in ipairs(redis.call('ZRANGE', P .. 'leases', low, high, 'BYSCORE')) do
  redis.call('ZADD', P .. 'leases', now + lease_ms, lease)
end
return redis.call('ZRANGE', P .. 'leases', '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000)

--@ mend
-- ARGV id, fence · Finds what of a job is neither ready nor leased nor done, and makes it ready. {} when there is
-- nothing to do, else {items found, next chunk if nothing at all goes on or -1, queue to send a ticket to, …}.
local id = ARGV[1]
if redis.call('GET', P .. 'sweeper') ~= ARGV[2] then return {} end
local job, needy, found = load(id), {}, 0
if not job or not IS_LIVE[job.status] then
  redis.call('SREM', P .. 'jobs:active', id)
  redis.call('SREM', P .. 'jobs:running', id)
  return {}
end
local held, leases = ready_items(job), redis.call('HKEYS', key(id, ':leases'))
local batches = redis.call('SCARD', key(id, ':done'))
for _, item in ipairs(leases) do
  held[item] = true
  -- A lease that no sweep would find.
  if not redis.call('ZSCORE', P .. 'leases', id .. ' ' .. item) then
    redis.call('ZADD', P .. 'leases', now_ms(), id .. ' ' .. item)
  end
end
for item in pairs(held) do
  if string.sub(item, 1, 1) == 'b' then batches = batches + 1 end
end
local function find(item)
  if not held[item] then
    make_ready(job, item)
    found = found + 1
  end
end
if batches ~= job.next_batch then
  for batch = job.next_batch - 1, 0, -1 do
    if redis.call('SISMEMBER', key(id, ':done'), batch) == 0 then find('b' .. batch) end
  end
end
if job.next_chunk > job.chunks_done then find('c' .. job.chunks_done) end
if job.delivering == 1 then find('deliver') end
offer_all(job, needy)
local is_idle = next(held) == nil and found == 0 and not has_fresh_batch(job) and MAY_START[job.status]
if found == 0 and not is_idle and #needy == 0 then return {} end
return {found, is_idle and job.next_chunk or -1, unpack(needy)}
