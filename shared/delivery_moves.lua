-- The moves of deliveries: news of a job on its way to the job's webhook. As in `job_moves.lua`, each runs as one step,
-- and may be made twice. A delivery that waits is in its receiver's `due`, one that is being posted in `leased`, under a
-- token; a lease that runs out is given back by whichever courier looks next. `receivers` says when to look at whom.
--
-- A receiver is a tenant's host: how it fares is nobody else's concern. One that took the last delivery gets a few at
-- once, any other only one: so receivers that never answer can't fill a courier.

local P = 'riffarm:'
local AT_ONCE_WELL = 4
local AT_ONCE = 1
local WELL_S = 3600
local MOST_ATTEMPTS = 10
local ATTEMPTS_KEPT = 20
local DELIVERIES_KEPT = 100
local PROGRESS_EVERY_MS = 500
local COURIERS_KEPT_MS = 3600000
local IS_LIVE = {queued = true, running = true, paused = true}
local IS_RETRIED = {['job.succeeded'] = true, ['job.failed'] = true, ['job.canceled'] = true}

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function job_key(id, part) return P .. 'job:' .. id .. (part or '') end
local function key(id) return P .. 'delivery:' .. id end
local function place(receiver, name) return P .. 'receiver:' .. receiver .. ':' .. name end
local function get(id, field) return redis.call('HGET', key(id), field) end

local function free_places(receiver)
  local most = redis.call('EXISTS', place(receiver, 'well')) == 1 and AT_ONCE_WELL or AT_ONCE
  return most - redis.call('ZCARD', place(receiver, 'leased'))
end

-- Says when to look at a receiver again: when one is due that it has room for, or a lease runs out.
local function schedule(receiver)
  local at
  if free_places(receiver) > 0 then at = redis.call('ZRANGE', place(receiver, 'due'), 0, 0, 'WITHSCORES')[2] end
  local expiry = redis.call('ZRANGE', place(receiver, 'leased'), 0, 0, 'WITHSCORES')[2]
  if expiry and (not at or tonumber(expiry) < tonumber(at)) then at = expiry end
  if at then
    redis.call('ZADD', P .. 'receivers', at, receiver)
  else
    redis.call('ZREM', P .. 'receivers', receiver)
  end
end

local function set_state(id, state)
  local before = get(id, 'state')
  if before == state then return end
  redis.call('HSET', key(id), 'state', state)
  if state ~= 'pending' then redis.call('HDEL', key(id), 'due_ms', 'token') end
  if before == 'pending' or state == 'pending' then
    redis.call('HINCRBY', P .. 'deliveries', 'pending', state == 'pending' and 1 or -1)
  end
  if state ~= 'pending' then redis.call('HINCRBY', P .. 'deliveries', state, 1) end
end

local function wait(id, receiver, due_ms)
  redis.call('HSET', key(id), 'due_ms', due_ms)
  redis.call('HDEL', key(id), 'token')
  redis.call('ZADD', place(receiver, 'due'), due_ms, id)
end

local function withdraw(id)
  local receiver = get(id, 'receiver')
  redis.call('ZREM', place(receiver, 'due'), id)
  redis.call('ZREM', place(receiver, 'leased'), id)
  schedule(receiver)
end

local function erase(id)
  if redis.call('EXISTS', key(id)) == 0 then return end
  withdraw(id)
  if get(id, 'state') == 'pending' then redis.call('HINCRBY', P .. 'deliveries', 'pending', -1) end
  redis.call('ZREM', job_key(get(id, 'job'), ':deliveries'), id)
  redis.call('DEL', key(id))
end

local function note_attempt(id, attempt)
  local attempts = cjson.decode(get(id, 'attempts'))
  attempts[#attempts + 1] = attempt
  if #attempts > ATTEMPTS_KEPT then table.remove(attempts, 1) end
  redis.call('HSET', key(id), 'attempts', cjson.encode(attempts))
  return redis.call('HINCRBY', key(id), 'tries', 1)
end

-- The same for the same news, also when it is made anew after a loss of Redis; sorts by time.
local function delivery_id(job_id, event, at_ms, runs)
  local hash = redis.sha1hex(job_id .. ' ' .. event .. ' ' .. at_ms .. ' ' .. runs)
  return string.format('dlv_%012x', at_ms) .. string.sub(hash, 1, 16)
end

-- Makes a delivery of a job's news unless it is there, its webhook does not ask for it, or its receiver is gone for
-- good; its id, or nil. `moved`: the job's fields as they are told; '' for those at the time of posting.
local function create(job_id, event, at_ms, moved)
  local job = redis.call('HMGET', job_key(job_id), 'webhook', 'tenant', 'gone', 'runs')
  if not job[1] or job[3] then return nil end
  local webhook, is_wanted = cjson.decode(job[1]), false
  for _, one in ipairs(webhook.events) do is_wanted = is_wanted or one == event end
  local id = delivery_id(job_id, event, at_ms, job[4] or '0')
  if not is_wanted or redis.call('EXISTS', key(id)) == 1 then return nil end
  local receiver = job[2] .. ' ' .. webhook.receiver
  redis.call('HSET', key(id), 'id', id, 'job', job_id, 'tenant', job[2], 'receiver', receiver, 'event', event,
    'url', webhook.url, 'at_ms', at_ms, 'tries', 0, 'attempts', '[]', 'moved', moved, 'state', 'pending')
  redis.call('HINCRBY', P .. 'deliveries', 'pending', 1)
  wait(id, receiver, now_ms())
  redis.call('ZADD', job_key(job_id, ':deliveries'), at_ms, id)
  for _, old in ipairs(redis.call('ZRANGE', job_key(job_id, ':deliveries'), 0, -1 - DELIVERIES_KEPT)) do erase(old) end
  schedule(receiver)
  return id
end

--@ announce
-- ARGV id, event, time in ms, fields (JSON) · Makes a delivery of a job's end; 1 when there was none.
return create(ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]) and 1 or 0

--@ take
-- ARGV courier, most to take, lease in ms · Takes what is due, under leases: {id, token, …}.
local courier, room, lease_ms, now = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), now_ms()
redis.call('ZADD', P .. 'couriers', now, courier)
redis.call('ZREMRANGEBYSCORE', P .. 'couriers', '-inf', now - COURIERS_KEPT_MS)

-- Makes a delivery of what a job has noted on its way (`job_moves.lua`). Of progress the newest alone is kept, and one
-- that waits tells of all that happens until it is posted.
local function tell(news)
  local job_id, event = string.match(news, '^(%S+) (%S+)$')
  local job = redis.call('HMGET', job_key(job_id), 'status', 'started_ms', 'progress_delivery', 'progress_ms')
  redis.call('ZREM', P .. 'news', news)
  if not job[1] then return end
  if event == 'job.started' then
    create(job_id, event, tonumber(job[2] or now), '')
  elseif IS_LIVE[job[1]] then
    local next_ms = tonumber(job[4] or 0) + PROGRESS_EVERY_MS
    local is_waiting = job[3] and get(job[3], 'state') == 'pending'
    if is_waiting then next_ms = now + PROGRESS_EVERY_MS end
    if is_waiting or next_ms > now then
      redis.call('ZADD', P .. 'news', next_ms, news)
    else
      if job[3] then erase(job[3]) end
      local id = create(job_id, event, now, '')
      if id then redis.call('HSET', job_key(job_id), 'progress_delivery', id) end
    end
  end
end

local function give_back(id, receiver)
  redis.call('ZREM', place(receiver, 'leased'), id)
  if redis.call('EXISTS', key(id)) == 0 then return end
  local tries = note_attempt(id, {at_ms = now, ms = lease_ms, error = 'its courier was lost'})
  if IS_RETRIED[get(id, 'event')] and tries < MOST_ATTEMPTS then
    wait(id, receiver, now)
  else
    set_state(id, 'failed')
  end
end

for _, news in ipairs(redis.call('ZRANGE', P .. 'news', '-inf', now, 'BYSCORE', 'LIMIT', 0, 200)) do tell(news) end
local taken = {}
for _, receiver in ipairs(redis.call('ZRANGE', P .. 'receivers', '-inf', now, 'BYSCORE', 'LIMIT', 0, room)) do
  for _, id in ipairs(redis.call('ZRANGE', place(receiver, 'leased'), '-inf', now, 'BYSCORE')) do
    give_back(id, receiver)
  end
  local most = math.max(0, math.min(free_places(receiver), room - #taken / 2))
  for _, id in ipairs(redis.call('ZRANGE', place(receiver, 'due'), '-inf', now, 'BYSCORE', 'LIMIT', 0, most)) do
    local token = courier .. ' ' .. redis.call('INCR', P .. 'delivery_tokens')
    redis.call('ZREM', place(receiver, 'due'), id)
    redis.call('ZADD', place(receiver, 'leased'), now + lease_ms, id)
    redis.call('HSET', key(id), 'token', token)
    taken[#taken + 1] = id
    taken[#taken + 1] = token
  end
  schedule(receiver)
end
return taken

--@ done
-- ARGV id, token, state, attempt (JSON), ms until the next attempt, whether the receiver took it ('1') · Notes an attempt
-- and what comes of it; 0 when the lease is gone.
local id, state = ARGV[1], ARGV[3]
if get(id, 'token') ~= ARGV[2] then return 0 end
local receiver, job_id = get(id, 'receiver'), get(id, 'job')
redis.call('ZREM', place(receiver, 'leased'), id)
note_attempt(id, cjson.decode(ARGV[4]))
if ARGV[6] == '1' then
  redis.call('SET', place(receiver, 'well'), 1, 'EX', WELL_S)
else
  redis.call('DEL', place(receiver, 'well'))
  redis.call('HINCRBY', P .. 'deliveries', 'attempts_failed', 1)
end
if state == 'pending' then wait(id, receiver, now_ms() + tonumber(ARGV[5])) end
-- From the end of one post on: so no two of them arrive any nearer.
if get(id, 'event') == 'job.progress' and redis.call('EXISTS', job_key(job_id)) == 1 then
  redis.call('HSET', job_key(job_id), 'progress_ms', now_ms())
end
set_state(id, state)
if state == 'gone' and redis.call('EXISTS', job_key(job_id)) == 1 then
  redis.call('HSET', job_key(job_id), 'gone', 1)
  for _, other in ipairs(redis.call('ZRANGE', job_key(job_id, ':deliveries'), 0, -1)) do
    if get(other, 'state') == 'pending' and not get(other, 'token') then
      withdraw(other)
      set_state(other, 'gone')
    end
  end
end
-- Of a job that was deleted nothing is left to be read.
if state ~= 'pending' and get(id, 'fields') then redis.call('DEL', key(id)) end
schedule(receiver)
return 1

--@ give_back
-- ARGV id, token · Has a delivery posted by another courier; what was tried of it does not count.
local id = ARGV[1]
if get(id, 'token') ~= ARGV[2] then return 0 end
local receiver = get(id, 'receiver')
redis.call('ZREM', place(receiver, 'leased'), id)
wait(id, receiver, now_ms())
schedule(receiver)
return 1

--@ drop
-- ARGV id, token · Removes a delivery whose job is gone.
if get(ARGV[1], 'token') ~= ARGV[2] then return 0 end
erase(ARGV[1])
return 1

--@ replay
-- ARGV id, job's id · Has a delivery posted again from the start of its schedule; 0 when the job has no such delivery. One
-- that is being posted stays as it is.
local id = ARGV[1]
if get(id, 'job') ~= ARGV[2] then return 0 end
if get(id, 'token') then return 1 end
local receiver = get(id, 'receiver')
set_state(id, 'pending')
redis.call('HSET', key(id), 'tries', 0)
wait(id, receiver, now_ms())
schedule(receiver)
return 1

--@ detach
-- ARGV job's id, its fields (JSON) · Ends the deliveries of a job that is being deleted; news of its cancellation that
-- waits goes on, with all it needs of the job.
for _, id in ipairs(redis.call('ZRANGE', job_key(ARGV[1], ':deliveries'), 0, -1)) do
  if get(id, 'event') == 'job.canceled' and get(id, 'state') == 'pending' then
    redis.call('HSET', key(id), 'fields', ARGV[2])
  else
    erase(id)
  end
end
redis.call('DEL', job_key(ARGV[1], ':deliveries'))
return 1
