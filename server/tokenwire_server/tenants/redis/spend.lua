-- Count the spend of one tenant in one step: first what a process reports of its own, then what it reserves.
--
-- KEYS: the state of the tenant
-- ARGV: the call, in MessagePack: {process, number, lease_ms, now_ms, report, reserves}
--   number: of this call. A process numbers its calls upwards.
--   now_ms: the time that decides the day, for tests. Usually 0: the time of this Redis.
--   report: {reserved by open streams of the process, {day, spent, month, spent} as the process knew it, charges}
--   charge: {number of the call that carried it first, day, cost}
--   reserve: {cost, limit per day, limit per month}. A limit of -1: there is none.
-- Costs are in microusd, days and months are numbered from January 1st, 1970, in UTC.
-- Returns, in MessagePack, {now in ms, day, spent, month, spent, whether Redis knew the process, reserved by other
-- processes, processes, for each reserve {whether it was accepted, reserved by all after it}}. Nil: a later call of
-- this process was here before.
--
-- A state, in MessagePack: {open, day, spent, month, spent}. `open` has for each process {reserved, end of its
-- lease in ms, number of its last call}.
local PROCESS_KEPT_MS = 86400000 -- an old call may arrive as late
local KEPT_MS = 40 * 86400000 -- longer than a month
local MOST = 9e15 -- exact in Lua's numbers, and far above all limits

local process, number, lease_ms, now_ms, report, reserves = unpack(cmsgpack.unpack(ARGV[1]))
local time = redis.call('TIME')
local clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if now_ms == 0 then
  now_ms = clock_ms
end

-- Source: http://howardhinnant.github.io/date_algorithms.html#civil_from_days
local function month_of(day)
  local shifted = day + 719468
  local era = math.floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local from_march = math.floor((5 * of_year + 2) / 153)
  return (year + era * 400 - 1970) * 12 + from_march + 2
end

local open, day, day_spent, month, month_spent = {}, 0, 0, 0, 0
local others, processes = 0, 1

local function restore(state)
  local stored
  stored, day, day_spent, month, month_spent = unpack(cmsgpack.unpack(state))
  for name, entry in pairs(stored) do
    -- Not more than a whole lease, also after the clock of Redis was set back.
    entry[2] = math.min(entry[2], clock_ms + lease_ms)
    if entry[2] + PROCESS_KEPT_MS > clock_ms then
      open[name] = entry
      if entry[2] > clock_ms and name ~= process then
        others = others + entry[1]
        processes = processes + 1
      end
    end
  end
  return day + day_spent + month + month_spent -- raises an error unless all are numbers
end

local state = redis.pcall('GET', KEYS[1])
if state and not pcall(restore, state) then
  -- Another program wrote the state. It is replaced.
  open, day, day_spent, month, month_spent, others, processes = {}, 0, 0, 0, 0, 0, 1
end

-- A day that has begun does not begin again, also after the clock of Redis was set back.
local today = math.floor(now_ms / 86400000)
if today > day then
  day, day_spent = today, 0
end
if month_of(today) > month then
  month, month_spent = month_of(today), 0
end

local reserved, known, charges = unpack(report)
local entry = open[process]
if entry and entry[3] >= number then
  return nil
end
-- Sums only grow. If the process knew of more, Redis has lost it.
if known[1] == day then
  day_spent = math.max(day_spent, known[2])
end
if known[3] == month then
  month_spent = math.max(month_spent, known[4])
end
for _, charge in ipairs(charges) do
  if not entry or charge[1] > entry[3] then
    if charge[2] >= day then
      day_spent = math.min(day_spent + charge[3], MOST)
    end
    if month_of(charge[2]) >= month then
      month_spent = math.min(month_spent + charge[3], MOST)
    end
  end
end

local answers = {}
for index, reserve in ipairs(reserves) do
  local cost, per_day, per_month = unpack(reserve)
  local needed = others + reserved + cost
  local fits = (per_day < 0 or day_spent + needed <= per_day)
    and (per_month < 0 or month_spent + needed <= per_month)
  if fits then
    reserved = reserved + cost
  end
  answers[index] = {fits, others + reserved}
end

open[process] = {reserved, clock_ms + lease_ms, number}
redis.call('SET', KEYS[1], cmsgpack.pack({open, day, day_spent, month, month_spent}), 'PX', KEPT_MS)
return cmsgpack.pack({now_ms, day, day_spent, month, month_spent, entry ~= nil, others, processes, answers})
