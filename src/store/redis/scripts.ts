/**
 * The steps that Redis carries out as a whole (S1): a script runs alone, so what it has checked still holds when it
 * writes.
 *
 * L1  A script checks all before it writes anything, for Redis takes nothing back.
 * L2  Numbers are written with `%d`, or as the text that came: Lua would make 1e+16 of a large one.
 * L3  Arguments are flat texts; nothing is parsed.
 */
import { hash } from 'node:crypto';

export interface Script {
  readonly lua: string;
  readonly sha: string;
}

const script = (lua: string): Script => ({ lua, sha: hash('sha1', lua, 'hex') });

/** `unpack` takes some thousands at a time. */
const IN_PARTS = `
local function inParts(command, key, from, to)
  for first = from, to, 1000 do
    redis.call(command, key, unpack(ARGV, first, math.min(first + 999, to)))
  end
end
`;

/** Ms and µs of the server's clock; the same throughout a script. */
const NOW = `
local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)
local nowUs = time[1] * 1000000 + time[2]
`;

// ---- sessions ------------------------------------------------------------------------------------------

/** What a creation answers. */
export const CREATED = { exists: 0, created: 1, late: 2 } as const;

/**
 * KEYS session; ARGV operation, touch, notAfter (in µs of the server's clock), owner, nonce, snapshot, wake, cover,
 * then names and texts of fields.
 */
export const CREATE = script(`${IN_PARTS}${NOW}
local creation = redis.call('HGET', KEYS[1], 'creation')
if creation then
  if creation ~= ARGV[1] then return ${CREATED.exists} end
  if ARGV[2] == '1' then redis.call('HSET', KEYS[1], 'touched', '1') end
  return ${CREATED.created}
end
if nowUs > tonumber(ARGV[3]) then return ${CREATED.late} end
redis.call('HSET', KEYS[1], 'creation', ARGV[1], 'owner', ARGV[4], 'epoch', '1', 'nonce', ARGV[5], 'version', '1',
  'snapshot', ARGV[6], 'seq', '0', 'first', '1', 'published', '0', 'work', '0', 'wake', ARGV[7], 'cover', ARGV[8])
inParts('HSET', KEYS[1], 9, #ARGV)
return ${CREATED.created}
`);

/** What an acquisition answers, if it is not the hash. */
export const ACQUIRED = { missing: 0, changed: 1 } as const;

/** KEYS session; ARGV owner, epoch and cover as they were judged, then owner, nonce, epoch and cover to be. Answers the hash. */
export const ACQUIRE = script(`
local was = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'cover')
if not was[2] then return ${ACQUIRED.missing} end
if was[1] ~= ARGV[1] or was[2] ~= ARGV[2] or was[3] ~= ARGV[3] then return ${ACQUIRED.changed} end
redis.call('HSET', KEYS[1], 'owner', ARGV[4], 'nonce', ARGV[5], 'epoch', ARGV[6], 'cover', ARGV[7])
return redis.call('HGETALL', KEYS[1])
`);

/** The first of what a commit answers. The second is: its epoch, version, seq or cover. */
export const COMMITTED = {
  committed: 0,
  fenced: 1,
  repeated: 2,
  conflict: 3,
  misnumbered: 4,
  uncovered: 5,
} as const;

/** How many arguments of a commit come before its lists. */
const COMMIT_HEAD = 22;

/**
 * KEYS session, events, tools, then the journals to append to and those to forget.
 * ARGV as below, then the events, then how many entries and the entries for each journal, then executions to
 * forget, then names of fields to remove, then names and texts of fields to write.
 */
export const COMMIT = script(`${IN_PARTS}
local was = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'nonce', 'version', 'seq', 'first', 'cover',
  'o0', 'o1', 'o2', 'o3', 'o4', 'o5', 'o6', 'o7')
local owner, epoch, nonce, operation, expected, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local ring, snapshot, last, seq, published, misnumbered = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local cover, work, wake, release, touch = ARGV[13], ARGV[14], ARGV[15], ARGV[16], ARGV[17]
local keep, most = tonumber(ARGV[18]), tonumber(ARGV[19])
local events, journals, forgotten = tonumber(ARGV[20]), tonumber(ARGV[21]), tonumber(ARGV[22])

if not was[2] then return {${COMMITTED.fenced}, '0'} end
if was[1] == '' or was[1] ~= owner or was[2] ~= epoch or was[3] ~= nonce then return {${COMMITTED.fenced}, was[2]} end
for slot = 0, 7 do
  if was[8 + slot] == operation then
    if touch == '1' then redis.call('HSET', KEYS[1], 'touched', '1') end
    local now = tonumber(was[4])
    return {${COMMITTED.repeated}, string.format('%d', now - (now - slot) % 8)}
  end
end
if was[4] ~= expected then return {${COMMITTED.conflict}, was[4]} end
if was[5] ~= last or misnumbered == '1' then return {${COMMITTED.misnumbered}, was[5]} end
if cover ~= '-' and cover ~= was[7] then return {${COMMITTED.uncovered}, was[7]} end

local at = ${COMMIT_HEAD}
local first = was[6]
if events > 0 then
  local before = tonumber(last)
  for n = 1, events do
    redis.call('XADD', KEYS[2], string.format('%d-0', before + n), 'e', ARGV[at + n])
  end
  at = at + events
  if before + events - tonumber(first) + 1 > most then
    first = string.format('%d', before + events - keep + 1)
    redis.call('XTRIM', KEYS[2], 'MINID', first .. '-0')
  end
end
for n = 1, journals do
  local execution, count = ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 2
  local length = 0
  if count <= 1000 then length = redis.call('RPUSH', KEYS[3 + n], unpack(ARGV, at + 1, at + count))
  else inParts('RPUSH', KEYS[3 + n], at + 1, at + count) end
  if length <= count then redis.call('SADD', KEYS[3], execution) end
  at = at + count
end
for n = 1, forgotten do
  if redis.call('UNLINK', KEYS[3 + journals + n]) == 1 then redis.call('SREM', KEYS[3], ARGV[at + n]) end
end
at = at + forgotten
local removed = tonumber(ARGV[at + 1])
at = at + 1
if removed > 0 then inParts('HDEL', KEYS[1], at + 1, at + removed) end
at = at + removed
if release == '1' then owner = '' nonce = '' end
if #ARGV - at <= 1000 then
  redis.call('HSET', KEYS[1], 'owner', owner, 'nonce', nonce, 'version', version, ring, operation,
    'snapshot', snapshot, 'seq', seq, 'first', first, 'published', published, 'work', work, 'wake', wake,
    unpack(ARGV, at + 1))
else
  redis.call('HSET', KEYS[1], 'owner', owner, 'nonce', nonce, 'version', version, ring, operation,
    'snapshot', snapshot, 'seq', seq, 'first', first, 'published', published, 'work', work, 'wake', wake)
  inParts('HSET', KEYS[1], at + 1, #ARGV)
end
return {${COMMITTED.committed}, version}
`);

/** KEYS session, events, tools; ARGV owner, epoch, nonce, what begins the keys of journals. Answers the last cover, or nil. */
export const DELETE = script(`
local was = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'nonce', 'cover')
if not was[2] or was[1] == '' or was[1] ~= ARGV[1] or was[2] ~= ARGV[2] or was[3] ~= ARGV[3] then return false end
for _, execution in ipairs(redis.call('SMEMBERS', KEYS[3])) do redis.call('UNLINK', ARGV[4] .. execution) end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
return was[4]
`);

/** KEYS session, events; ARGV from, limit. Answers seq, first and the events, or nil. */
export const READ_EVENTS = script(`
local was = redis.call('HMGET', KEYS[1], 'seq', 'first')
if not was[1] then return false end
local page = {was[1], was[2]}
local from, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
if limit > 0 and from >= tonumber(was[2]) and from <= tonumber(was[1]) then
  for n, entry in ipairs(redis.call('XRANGE', KEYS[2], string.format('%d-0', from), '+', 'COUNT', ARGV[2])) do
    page[n + 2] = entry[2][2]
  end
end
return page
`);

/** KEYS session. Answers the operation that created it, or nil; and the server's time in µs. */
export const LOOK = script(`${NOW}
return {redis.call('HGET', KEYS[1], 'creation'), string.format('%d', nowUs)}
`);

/**
 * KEYS session. Makes all earlier covers void. Answers the cover that was, owner, work, wake and the cover that is; if
 * there is no session, the server's time in µs.
 */
export const FENCE = script(`${NOW}
local was = redis.call('HMGET', KEYS[1], 'owner', 'work', 'wake', 'cover')
if not was[4] then return {string.format('%d', nowUs)} end
local cover = string.format('%d', tonumber(was[4]) + 1)
redis.call('HSET', KEYS[1], 'cover', cover)
return {was[4], was[1], was[2], was[3], cover}
`);

// ---- indexes -------------------------------------------------------------------------------------------

/** KEYS work of an owner, owners; ARGV session, cover, owner or '' for nobody. */
export const ADD_WORK = script(`
redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
if ARGV[3] ~= '' then redis.call('SADD', KEYS[2], ARGV[3]) end
return 1
`);

/** KEYS work of an owner, owners; ARGV session, bound, owner or ''. Removes the entry if its cover is within the bound. */
export const REMOVE_WORK = script(`
local bound = tonumber(ARGV[2])
local cover = redis.call('ZSCORE', KEYS[1], ARGV[1])
if cover and tonumber(cover) <= bound then redis.call('ZREM', KEYS[1], ARGV[1]) end
if ARGV[3] ~= '' and redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[3]) end
return 1
`);

/** KEYS owners; ARGV session, bound, what begins the keys of work, '1' if there is work, whose it is, its cover. */
export const CLEAN_WORK = script(`
local bound = tonumber(ARGV[2])
if ARGV[4] == '1' then
  redis.call('ZADD', ARGV[3] .. ARGV[5], 'GT', ARGV[6], ARGV[1])
  if ARGV[5] ~= '' then redis.call('SADD', KEYS[1], ARGV[5]) end
end
local owners = redis.call('SMEMBERS', KEYS[1])
owners[#owners + 1] = ''
for _, owner in ipairs(owners) do
  local key = ARGV[3] .. owner
  local cover = redis.call('ZSCORE', key, ARGV[1])
  if cover and tonumber(cover) <= bound then redis.call('ZREM', key, ARGV[1]) end
  if owner ~= '' and redis.call('EXISTS', key) == 0 then redis.call('SREM', KEYS[1], owner) end
end
return 1
`);

/** KEYS wakes, covers; ARGV session, cover, time. An entry never gets later by this. */
export const ADD_WAKE = script(`
redis.call('ZADD', KEYS[1], 'LT', ARGV[3], ARGV[1])
local cover = redis.call('HGET', KEYS[2], ARGV[1])
if not cover or tonumber(cover) < tonumber(ARGV[2]) then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
return 1
`);

/** KEYS wakes, covers; ARGV session, bound, time or '' for never, its cover. */
export const CLEAN_WAKE = script(`
local bound = tonumber(ARGV[2])
local cover = redis.call('HGET', KEYS[2], ARGV[1])
if cover and tonumber(cover) > bound then
  if ARGV[3] ~= '' then redis.call('ZADD', KEYS[1], 'LT', ARGV[3], ARGV[1]) end
elseif ARGV[3] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
end
return 1
`);

// ---- leases --------------------------------------------------------------------------------------------

/** KEYS incarnation; ARGV ttl, how long it is remembered after its end, in ms. */
export const OPEN = script(`${NOW}
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[1], string.format('%d', nowMs + ARGV[1]), 'PX', string.format('%d', ARGV[1] + ARGV[2]))
return 1
`);

/** As OPEN, of one that is alive. */
export const RENEW = script(`${NOW}
local ends = redis.call('GET', KEYS[1])
if not ends or tonumber(ends) <= nowMs then return 0 end
redis.call('SET', KEYS[1], string.format('%d', nowMs + ARGV[1]), 'PX', string.format('%d', ARGV[1] + ARGV[2]))
return 1
`);

/** KEYS incarnation; ARGV how long it is remembered, in ms. */
export const END = script(`
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('SET', KEYS[1], '0', 'PX', ARGV[1]) end
return 1
`);

/** KEYS incarnation. Answers how long it lives, in ms; 0 or less if it is dead. */
export const LEFT = script(`${NOW}
local ends = redis.call('GET', KEYS[1])
return ends and tonumber(ends) - nowMs or 0
`);

/** KEYS whatever is on the server that is asked. Answers its wall clock, in ms. */
export const TIME = script(`${NOW}
return nowMs
`);

/**
 * KEYS what each holder has, when that ends; ARGV holder, has, ttl in ms, most or '' for telling only. Answers whether
 * one more was granted, and the sum of all.
 */
export const SHARE = script(`${NOW}
local total, most = tonumber(ARGV[2]), tonumber(ARGV[4])
local ends = redis.call('HGETALL', KEYS[2])
for n = 1, #ends, 2 do
  if tonumber(ends[n + 1]) > nowMs then
    if ends[n] ~= ARGV[1] then total = total + (tonumber(redis.call('HGET', KEYS[1], ends[n])) or 0) end
  else
    redis.call('HDEL', KEYS[1], ends[n])
    redis.call('HDEL', KEYS[2], ends[n])
  end
end
local granted = (not most or total < most) and 1 or 0
local more = most and granted or 0
local has = tonumber(ARGV[2]) + more
if has > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', has))
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%d', nowMs + ARGV[3]))
else
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return {granted, total + more}
`);

/** KEYS role; ARGV holder, ttl in ms. */
export const HOLD = script(`
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`);

/** KEYS role; ARGV holder. */
export const RELEASE = script(`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
`);
