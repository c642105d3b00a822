-- Charge the limits of one tenant in one step: first what a process reports of its own, then what it takes.
--
-- KEYS: the states of holders, which are the tenant and its families of keys. All have one hash tag.
-- ARGV: the call, in MessagePack: {process, number, lease_ms, now_ms, reports, takes}
--   number: of this call. A process numbers its calls upwards.
--   now_ms: the time for the windows, for tests. Usually 0: the time of this Redis.
--   reports[i], about the holder of KEYS[i]: {open streams of the process, requests and tokens of the process in
--     the last minute, charges}
--   charge: {number of the call that carried it first, bucket, requests, tokens}. Bucket 0: the present one.
--   take: {kind, tokens, parts}. Kind 0 reads, 1 takes a request, 2 takes a request, a stream and tokens.
--   part: {index of the holder, its limits on requests, tokens and streams}. A limit of -1: there is none.
-- Returns, in MessagePack, for each take {whether it was accepted, found}, with for each of its parts
--   {bucket, open streams, requests, tokens} after the take. If it was refused, the buckets of the window follow,
--   each as {ms until it stops counting, requests, tokens}. Nil: a later call of this process was here before.
--
-- A state, in MessagePack: {open, buckets}. `open` has for each process {open streams, end of its lease in ms,
-- number of its last call}. `buckets` is a flat list of {begin in ms, end in ms, requests, tokens}: see
-- `Window`, which has the same rules. A bucket is named by its begin.
local BUCKET_MS = 1000
local WINDOW_MS = 60001 -- times are rounded down to milliseconds
local KEPT_MS = 62000 -- how long a process is remembered after its lease: longer than any usage counts

local process, number, lease_ms, now_ms, reports, takes = unpack(cmsgpack.unpack(ARGV[1]))
local time = redis.call('TIME')
local clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if now_ms == 0 then
  now_ms = clock_ms
end

local function new(key)
  return {key = key, now = now_ms, open = {}, buckets = {}, streams = 0, requests = 0, tokens = 0}
end

local function restore(holder, state)
  local open, buckets = unpack(cmsgpack.unpack(state))
  for name, entry in pairs(open) do
    -- Not more than a whole lease, also after the clock of Redis was set back.
    entry[2] = math.min(entry[2], clock_ms + lease_ms)
    if entry[2] + KEPT_MS > clock_ms then
      holder.open[name] = entry
      if entry[2] > clock_ms and name ~= process then
        holder.streams = holder.streams + entry[1]
      end
    end
  end
  if #buckets == 0 then
    return
  end
  local last_ms = buckets[#buckets - 2] - WINDOW_MS
  if last_ms > now_ms + WINDOW_MS then
    return -- The clock was set back by more than a minute. Begin anew.
  end
  holder.now = math.max(now_ms, last_ms) -- The time of a window never goes back.
  for at = 1, #buckets, 4 do
    if buckets[at + 1] > holder.now then
      for field = at, at + 3 do
        holder.buckets[#holder.buckets + 1] = buckets[field]
      end
      holder.requests = holder.requests + buckets[at + 2]
      holder.tokens = holder.tokens + buckets[at + 3]
    end
  end
end

local function load(key)
  local holder, state = new(key), redis.pcall('GET', key)
  if state and not pcall(restore, holder, state) then
    return new(key) -- Another program wrote the state. It is replaced.
  end
  return holder
end

local function add(holder, at, requests, tokens)
  local buckets = holder.buckets
  buckets[at + 2] = buckets[at + 2] + requests
  buckets[at + 3] = buckets[at + 3] + tokens
  holder.requests = holder.requests + requests
  holder.tokens = holder.tokens + tokens
  holder.is_changed = true
end

local function charge(holder, requests, tokens)
  local buckets, now = holder.buckets, holder.now
  local at = #buckets - 3
  if at < 1 or now >= buckets[at] + BUCKET_MS then
    at = #buckets + 1
    buckets[at], buckets[at + 1], buckets[at + 2], buckets[at + 3] = now, 0, 0, 0
  end
  buckets[at + 1] = now + WINDOW_MS
  add(holder, at, requests, tokens)
  return buckets[at]
end

local function correct(holder, bucket, requests, tokens)
  for at = 1, #holder.buckets, 4 do
    if holder.buckets[at] == bucket then
      add(holder, at, requests, tokens)
      return
    end
  end
end

local holders = {}
for index, report in ipairs(reports) do
  local holder = load(KEYS[index])
  local streams, requests, tokens, charges = unpack(report)
  local entry = holder.open[process]
  if entry and entry[3] >= number then
    return nil
  end
  if entry then
    for _, sent in ipairs(charges) do
      if sent[1] <= entry[3] then
        -- It was charged by an earlier call, whose answer was lost.
      elseif sent[2] == 0 then
        charge(holder, sent[3], sent[4])
      else
        correct(holder, sent[2], sent[3], sent[4])
      end
    end
  elseif requests ~= 0 or tokens ~= 0 then
    -- Redis has lost the state. Each process restores what it has used itself.
    charge(holder, requests, tokens)
  end
  if streams > 0 or (entry and entry[1] > 0) then
    holder.is_changed = true
  end
  holder.entry = {streams, clock_ms + lease_ms, number}
  holder.streams = holder.streams + streams
  holders[index] = holder
end

local function fits(kind, tokens, parts)
  for _, part in ipairs(parts) do
    local holder = holders[part[1]]
    if kind >= 1 and part[2] >= 0 and holder.requests + 1 > part[2] then
      return false
    end
    if kind >= 2 and part[3] >= 0 and holder.tokens + tokens > part[3] then
      return false
    end
    if kind >= 2 and part[4] >= 0 and holder.streams + 1 > part[4] then
      return false
    end
  end
  return true
end

local answers = {}
for index, take in ipairs(takes) do
  local kind, tokens, parts = unpack(take)
  local is_accepted = fits(kind, tokens, parts)
  local found = {}
  for number_of_part, part in ipairs(parts) do
    local holder, bucket = holders[part[1]], 0
    if is_accepted and kind == 1 then
      charge(holder, 1, 0)
    elseif is_accepted and kind == 2 then
      bucket = charge(holder, 1, tokens)
      holder.streams = holder.streams + 1
      holder.entry[1] = holder.entry[1] + 1
    end
    local figures = {bucket, holder.streams, holder.requests, holder.tokens}
    if not is_accepted then
      for at = 1, #holder.buckets, 4 do
        figures[#figures + 1] = holder.buckets[at + 1] - holder.now
        figures[#figures + 1] = holder.buckets[at + 2]
        figures[#figures + 1] = holder.buckets[at + 3]
      end
    end
    found[number_of_part] = figures
  end
  answers[index] = {is_accepted, found}
end

for _, holder in ipairs(holders) do
  if holder.is_changed then
    holder.open[process] = holder.entry
    local state = cmsgpack.pack({holder.open, holder.buckets})
    redis.call('SET', holder.key, state, 'PX', lease_ms + KEPT_MS)
  end
end
return cmsgpack.pack(answers)
