-- Let a process get the batches of a tenant's stream that are stored from now on, and tell the owner of the
-- stream.
--
-- KEYS: the readers (a sorted set: process -> end of its lease, in ms), the state of the log (a hash)
-- ARGV: process, length of the lease in ms, the same for all processes, or 0 to end it,
--       prefix of the processes' channels, message for the owner, tenant
-- Returns {epoch, last sequence that is stored, whether the log is sealed, earliest sequence}, or nil if the
-- tenant has no such log. The epoch of a stream that was deleted is "deleted".
local readers, lease_ms = KEYS[1], tonumber(ARGV[2])
local found = redis.call('HMGET', KEYS[2], 'epoch', 'last', 'sealed', 'tenant', 'earliest')
if found[1] and found[4] ~= ARGV[5] then
  return false
end
if found[1] == 'deleted' then
  return {found[1], 0, 1, 1}
end
if lease_ms == 0 or not found[1] then
  redis.call('ZREM', readers, ARGV[1])
else
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZREMRANGEBYSCORE', readers, '-inf', now_ms)
  redis.call('ZADD', readers, now_ms + lease_ms, ARGV[1])
  redis.call('PEXPIRE', readers, lease_ms)
end
if not found[1] then
  return false
end
if found[3] ~= '1' then
  redis.call('PUBLISH', ARGV[3] .. found[1], ARGV[4])
end
return {found[1], tonumber(found[2]), tonumber(found[3]) or 0, tonumber(found[5]) or 1}
