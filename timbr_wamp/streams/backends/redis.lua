-- All of `timbr_wamp.streams.backends.redis` that must be atomic. KEYS[1]: the common start of a stream's keys, whose
-- hash tag puts them, and those of its dead-letter stream, into one slot. ARGV: operation, request id or '', arguments.
--
-- :meta    hash   last, count, bytes, retention (JSON), metadata (JSON)
-- :entries stream id <position>-0; fields a (appended, microseconds), t (text), k (key, if it has one), in this order
-- :keys    hash   idempotency key -> position
-- :groups  set    names of groups; for each group:
-- :group:… hash   next (highest position that was claimed), fence, max (attempts)
-- :held:…  zset   claimed or given back: position by position
-- :due:…   zset   the same by the end of the lease or delay, microseconds
-- :claim:… hash   position -> JSON [fence, attempts, consumer, error]; fence 0: given back
--
-- Redis undoes nothing of a script that fails: what can be refused is checked before the first change.

local FREE = 0
local CHUNK = 100

local base, operation, request = KEYS[1], ARGV[1], ARGV[2]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function digits(number) -- tostring() would round above 10^14
    return string.format('%.0f', number)
end

local function id(position)
    return digits(position) .. '-0'
end

local function made(at)
    redis.call('HSETNX', at .. ':meta', 'last', 0)
end

local function state(at)
    local found = redis.call('HMGET', at .. ':meta', 'last', 'count', 'bytes')
    return tonumber(found[1] or 0), tonumber(found[2] or 0), tonumber(found[3] or 0)
end

local function entry(position)
    local found = redis.call('XRANGE', base .. ':entries', id(position), id(position))
    return found[1] and found[1][2]
end

-- groups

local function group(name)
    local key = base .. ':group:' .. name
    local found = redis.call('HMGET', key, 'next', 'fence', 'max')
    if not found[1] then
        made(base)
        redis.call('SADD', base .. ':groups', name)
        redis.call('HSET', key, 'next', 0, 'fence', 0, 'max', 5)
        return 0, 0, 5
    end
    return tonumber(found[1]), tonumber(found[2]), tonumber(found[3])
end

local function acknowledged(at, name)
    local lowest = redis.call('ZRANGE', at .. ':held:' .. name, 0, 0)[1]
    if lowest then
        return tonumber(lowest) - 1
    end
    return tonumber(redis.call('HGET', at .. ':group:' .. name, 'next'))
end

local function hold(name, position, ends, fence, attempts, consumer, fault)
    local member = digits(position)
    redis.call('ZADD', base .. ':held:' .. name, member, member)
    redis.call('ZADD', base .. ':due:' .. name, digits(ends), member)
    redis.call('HSET', base .. ':claim:' .. name, member, cjson.encode({fence, attempts, consumer, fault or false}))
end

local function held(name, position)
    local found = redis.call('HGET', base .. ':claim:' .. name, digits(position))
    return found and cjson.decode(found)
end

local function forget(name, position)
    local member = digits(position)
    redis.call('ZREM', base .. ':held:' .. name, member)
    redis.call('ZREM', base .. ':due:' .. name, member)
    redis.call('HDEL', base .. ':claim:' .. name, member)
end

local function forget_all(name)
    redis.call('DEL', base .. ':held:' .. name, base .. ':due:' .. name, base .. ':claim:' .. name)
end

-- Positions whose claim has ended, of ARGV[from] (position), ARGV[from + 1] (fence), …
local function invalid(name, from)
    local lost, is_lost = {}, {}
    for i = from, #ARGV, 2 do
        local claim = held(name, ARGV[i])
        local ends = redis.call('ZSCORE', base .. ':due:' .. name, ARGV[i])
        if not claim or claim[1] ~= tonumber(ARGV[i + 1]) or claim[1] == FREE or tonumber(ends) <= now then
            lost[#lost + 1] = tonumber(ARGV[i])
            is_lost[ARGV[i]] = true
        end
    end
    return lost, is_lost
end

-- entries

local function trim(at, retention, limit)
    local bounds = cjson.decode(retention)
    local function bound(name)
        return type(bounds[name]) == 'number' and bounds[name]
    end
    local age, most, most_bytes = bound('age_s'), bound('count'), bound('size_bytes')
    if not (age or most or most_bytes) then
        return 0
    end
    local last, count, size = state(at)
    local done = last
    for _, name in ipairs(redis.call('SMEMBERS', at .. ':groups')) do
        done = math.min(done, acknowledged(at, name))
    end
    local first, removed, freed, ended = last - count + 1, 0, 0, false
    while not ended and removed < limit and first + removed <= done do
        local found = redis.call('XRANGE', at .. ':entries', id(first + removed), id(done),
            'COUNT', math.min(CHUNK, limit - removed))
        ended = #found == 0
        for _, one in ipairs(found) do
            local fields = one[2]
            if (age and tonumber(fields[2]) < now - age * 1000000) or (most and count - removed > most)
                or (most_bytes and size - freed > most_bytes) then
                removed, freed = removed + 1, freed + #fields[4]
            else
                ended = true
                break
            end
        end
    end
    if removed > 0 then
        redis.call('XTRIM', at .. ':entries', 'MINID', id(first + removed))
        redis.call('HINCRBY', at .. ':meta', 'count', -removed)
        redis.call('HINCRBY', at .. ':meta', 'bytes', -freed)
    end
    return removed
end

-- `given`: text, key or '', text, …
local function append(at, given, from)
    local last = state(at)
    local positions, added, size = {}, 0, 0
    for i = from, #given, 2 do
        local text, key = given[i], given[i + 1]
        local known = key ~= '' and redis.call('HGET', at .. ':keys', key)
        if known then
            positions[#positions + 1] = tonumber(known)
        else
            last, added, size = last + 1, added + 1, size + #text
            if key ~= '' then
                redis.call('HSET', at .. ':keys', key, digits(last))
                redis.call('XADD', at .. ':entries', id(last), 'a', digits(now), 't', text, 'k', key)
            else
                redis.call('XADD', at .. ':entries', id(last), 'a', digits(now), 't', text)
            end
            positions[#positions + 1] = last
        end
    end
    redis.call('HSET', at .. ':meta', 'last', digits(last))
    redis.call('HINCRBY', at .. ':meta', 'count', added)
    redis.call('HINCRBY', at .. ':meta', 'bytes', size)
    local retention = redis.call('HGET', at .. ':meta', 'retention')
    if retention then
        trim(at, retention, 2 * added + 1)
    end
    return positions
end

-- Move an entry of a group to the dead-letter stream.
local function bury(stream, name, position, fields, attempts, fault)
    local function text(value)
        return value and cjson.encode(value) or 'null'
    end
    local content = '{"stream":' .. text(stream) .. ',"group":' .. text(name) .. ',"position":' .. digits(position)
        .. ',"attempts":' .. digits(attempts) .. ',"error":' .. text(fault) .. ',"key":' .. text(fields[6])
        .. ',"appended_at":' .. string.format('%.6f', tonumber(fields[2]) / 1000000) .. ',"message":' .. fields[4] .. '}'
    append(base .. '.dead', {content, name .. ':' .. digits(position)}, 1)
    forget(name, position)
end

-- Entries after a position, as rows {position, appended, text, key}, within a number and a number of bytes.
local function page(after, limit, limit_bytes)
    local rows, size = {}, 0
    while #rows < limit do
        local found = redis.call('XRANGE', base .. ':entries', id(after + 1), '+', 'COUNT', math.min(CHUNK, limit - #rows))
        for _, one in ipairs(found) do
            local fields = one[2]
            size = size + #fields[4]
            if #rows > 0 and size > limit_bytes then
                return rows
            end
            after = tonumber(string.match(one[1], '%d+'))
            rows[#rows + 1] = {after, tonumber(fields[2]), fields[4], fields[6] or false}
        end
        if #found < CHUNK then
            break
        end
    end
    return rows
end

-- operations: each gets ARGV from 3 on

local operations = {}

function operations.append()
    return append(base, ARGV, 3)
end

function operations.read()
    return page(tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
end

function operations.create_group()
    local name, start, most = ARGV[3], ARGV[4], ARGV[5]
    made(base)
    local last = state(base)
    local key = base .. ':group:' .. name
    if redis.call('SADD', base .. ':groups', name) == 1 then
        local following = start == '' and last or math.min(tonumber(start), last)
        redis.call('HSET', key, 'next', digits(following), 'fence', 0, 'max', 5)
    end
    if most ~= '' then
        redis.call('HSET', key, 'max', most)
    end
end

function operations.claim()
    local stream, name, consumer = ARGV[3], ARGV[4], ARGV[5]
    local limit, ends, limit_bytes = tonumber(ARGV[6]), now + tonumber(ARGV[7]), tonumber(ARGV[8])
    local following, fence, most = group(name)
    local rows, size = {}, 0
    local function add(position, fields, attempt)
        rows[#rows + 1] = {position, tonumber(fields[2]), fields[4], fields[6] or false, attempt}
        size = size + #fields[4]
    end
    local due = redis.call('ZRANGEBYSCORE', base .. ':due:' .. name, '-inf', digits(now))
    for i, member in ipairs(due) do
        due[i] = tonumber(member)
    end
    table.sort(due)
    for _, position in ipairs(due) do
        if #rows >= limit or size >= limit_bytes then
            break
        end
        local fields, claim = entry(position), held(name, position)
        if not fields then -- removed with its stream's other entries
            forget(name, position)
        elseif claim[2] >= most then
            bury(stream, name, position, fields, claim[2], claim[4] or 'its lease ended each time')
        else
            add(position, fields, claim[2] + 1)
        end
    end
    if #rows < limit and size < limit_bytes then
        for _, row in ipairs(page(following, limit - #rows, limit_bytes - size)) do
            following = row[1]
            row[5] = 1
            rows[#rows + 1] = row
        end
    end
    if #rows > 0 then
        for _, row in ipairs(rows) do
            hold(name, row[1], ends, fence + 1, row[5], consumer)
        end
        redis.call('HSET', base .. ':group:' .. name, 'next', digits(following), 'fence', digits(fence + 1))
    end
    return {fence + 1, ends, rows}
end

function operations.acknowledge()
    local lost = invalid(ARGV[3], 4)
    if #lost == 0 then
        for i = 4, #ARGV, 2 do
            forget(ARGV[3], ARGV[i])
        end
    end
    return lost
end

function operations.extend()
    local name, ends = ARGV[3], now + tonumber(ARGV[4])
    local lost = invalid(name, 5)
    if #lost == 0 then
        for i = 5, #ARGV, 2 do
            redis.call('ZADD', base .. ':due:' .. name, digits(ends), ARGV[i])
        end
    end
    return lost
end

function operations.release()
    local stream, name, ends = ARGV[3], ARGV[4], now + tonumber(ARGV[5])
    local fault = ARGV[6] ~= '' and ARGV[6]
    local _, _, most = group(name)
    local lost, is_lost = invalid(name, 7)
    for i = 7, #ARGV, 2 do
        local position = tonumber(ARGV[i])
        local claim = not is_lost[ARGV[i]] and held(name, position)
        if claim then
            local fields = entry(position)
            if fields and claim[2] >= most then
                bury(stream, name, position, fields, claim[2], fault)
            else
                hold(name, position, ends, FREE, claim[2], claim[3], fault)
            end
        end
    end
    table.sort(lost)
    return lost
end

function operations.seek()
    local name = ARGV[3]
    group(name)
    forget_all(name)
    local last = state(base)
    redis.call('HSET', base .. ':group:' .. name, 'next', digits(math.min(tonumber(ARGV[4]), last)))
end

function operations.delete_group()
    forget_all(ARGV[3])
    redis.call('DEL', base .. ':group:' .. ARGV[3])
    redis.call('SREM', base .. ':groups', ARGV[3])
end

function operations.trim()
    return trim(base, ARGV[3], tonumber(ARGV[4]))
end

function operations.set()
    made(base)
    redis.call('HSET', base .. ':meta', ARGV[3], ARGV[4])
end

function operations.info()
    local found = redis.call('HMGET', base .. ':meta', 'retention', 'metadata')
    local last, count, size = state(base)
    local groups = {}
    for _, name in ipairs(redis.call('SMEMBERS', base .. ':groups')) do
        local following, _, most = group(name)
        groups[#groups + 1] = {name, acknowledged(base, name), redis.call('ZCARD', base .. ':held:' .. name),
            last - math.max(following, last - count), most}
    end
    return {last, count, size, found[1], found[2], groups}
end

function operations.delete()
    for _, name in ipairs(redis.call('SMEMBERS', base .. ':groups')) do
        forget_all(name)
        redis.call('DEL', base .. ':group:' .. name)
    end
    redis.call('UNLINK', base .. ':entries', base .. ':keys', base .. ':groups', base .. ':meta')
end

-- A call whose answer was lost is made again with its request id: it gets the answer, and nothing is done twice.
local answered = request ~= '' and string.match(base, '^{.-}') .. ':request:' .. request
if answered then
    local answer = redis.call('GET', answered)
    if answer then
        return cjson.decode(answer)
    end
end
local answer = operations[operation]()
if answered then
    redis.call('SET', answered, cjson.encode(answer), 'PX', 300000)
end
return answer
