-- Append a batch of entries to the stored log of one stream, and publish it to the processes that read it.
--
-- KEYS: the entries (a stream), the state (a hash), the readers (a sorted set: process -> end of its lease, in
-- ms). All have the same hash tag.
-- ARGV: epoch, first sequence, last sequence, id of the batch, batch, earliest sequence that the owner has,
--       whether the log is sealed ("1" or ""), time to live in ms, which counts from the first batch and again
--       from the end, prefix of the readers' channels, header of the message, facts about the stream, whether to replace what is stored ("1" or ""),
--       tenant
-- Returns {status, last sequence that is stored}: 1 if the batch is stored now, or was stored before; 0 if
-- entries before it are missing; -1 if the log belongs to another epoch; -2 if the stream was deleted.
local entries, state, readers = KEYS[1], KEYS[2], KEYS[3]
local epoch, first, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local id, batch, earliest, sealed, ttl_ms = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]

local found = redis.call('HMGET', state, 'epoch', 'last', 'sealed')
local stored = tonumber(found[2] or -1)
if found[1] == 'deleted' then
  return {-2, 0}
end
if found[1] and found[1] ~= epoch then
  return {-1, stored}
end
local is_new = not found[1] or ARGV[12] == '1'
if not is_new then
  if stored >= last and (found[3] == '1' or sealed == '') and redis.call('EXISTS', entries) == 1 then
    redis.call('PEXPIRE', entries, ttl_ms)
    redis.call('PEXPIRE', state, ttl_ms)
    return {1, stored}
  end
  if first == stored + 1 or (first == earliest and first > stored) then
    -- If the batch follows a gap, its owner has dropped the entries of the gap. The batches before it are
    -- dropped here, too. If there are no entries, Redis has lost them.
    local min_id = math.min(earliest, last) .. '-0'
    is_new = not redis.call('XADD', entries, 'NOMKSTREAM', 'MINID', min_id, id, 'b', batch)
  elseif redis.call('EXISTS', entries) == 1 then
    return {0, stored}
  else
    is_new = true
  end
end
if is_new then
  -- The log is new, or Redis has lost a part of it. It can only begin where the owner's log begins.
  if first ~= earliest then
    return {0, earliest - 1}
  end
  redis.call('DEL', entries, state)
  redis.call('XADD', entries, id, 'b', batch)
  redis.call('HSET', state, 'epoch', epoch, 'facts', ARGV[11], 'tenant', ARGV[13])
end
redis.call('HSET', state, 'earliest', earliest, 'last', last, 'sealed', sealed)
if is_new or sealed == '1' then
  redis.call('PEXPIRE', entries, ttl_ms)
  redis.call('PEXPIRE', state, ttl_ms)
end

if redis.call('EXISTS', readers) == 1 then
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, process in ipairs(redis.call('ZRANGE', readers, now_ms, '+inf', 'BYSCORE')) do
    redis.call('PUBLISH', ARGV[9] .. process, ARGV[10] .. batch)
  end
end
return {1, last}
