-- Stands before limits.lua: how fast a key may be that has no other way to know than to try (docs/design.md, Adaptive).
--
-- In its line of `keys`, numbers with commas between (PACE). Rates are starts a second. Time is cut into rounds: only runs that
-- began in a round tell of its rate, and only a rate that was used may grow.

-- (One name for all of it, since Lua 5.1 has room for 200 in a script.)
local adapt = {}

-- (limits.lua says when.)
local function make_adapt()

-- rate    now; bad: one that was too fast, or 0 as long as none is known
-- since   ms, the round's begin; starts: in it; done: runs that ended since; ends: those of them that began in it and got
--         through, and log: the sum of ln(ms that these took)
-- step    of an attempt to go beyond `bad`, or 0
-- due     ms, and left: successes, after which the next attempt is due; back: how often one has failed
-- mark    ms of the last throttle, or 0 where not all of what was allowed has been used since; passed: successes since
-- sure    what got through between the last two throttles, a second, or 0
-- first   ms, the first start after the last throttle, or 0
-- fast    ln(ms) of what runs take, a moving mean; base: when the site is at ease; 0 unknown
-- tries   steps down for the sake of what runs take; top: ln(ms) that they took last; before: the rate until then
-- deaf    ms until which that is not looked at; vain: how often it was in vain
local PACE = {'rate', 'bad', 'since', 'starts', 'done', 'ends', 'log', 'step', 'due', 'left', 'back', 'mark', 'passed',
  'sure', 'first', 'fast', 'base', 'tries', 'top', 'before', 'deaf', 'vain'}

-- Of a key of which nothing is known; and the slowest, where no floor is declared.
local RATE_FIRST, RATE_FLOOR = 2, 1 / 120
-- A round: ms, and runs that got through, at least; and what of its rate must have been used.
local ROUND, ROUND_LEAST, USED = 2000, 4, 0.75
-- Growth in a round as long as nothing is bad; how far below what is bad it stays; growth by the first step beyond it, of
-- the steps, and by a step at most.
local GROWTH, BELOW, STEP_FIRST, STEP_GROWTH, STEP_MOST = 1.5, 0.97, 0.02, 1.4, 0.15
-- Between attempts: ms, which double up to so many, and successes, which double so often; and how many times as long as the last
-- hold, up to so many ms.
local CALM, CALM_MOST, CALM_LEAST, CALM_DOUBLES, CALM_HOLDS, CALM_HELD = 15000, 180000, 30, 4, 20, 3600000
-- Of a series of throttles so many ms count as the hold. What got through before such a series, times that, is bad.
local SERIES_MOST, SURELY = 30000, 1.15
-- Where runs take so many times as long (as a logarithm), and so many ms longer, the site may be queueing: steps down to find
-- out, how many at most, and ms until that is asked again.
local QUEUEING, QUEUEING_MS, TRY, TRIES, DEAF = math.log(2), 20, 0.75, 3, 60000
-- Where no more than that of what is started gets through, it piles up at the site.
local PILES_UP = 0.6
-- ms that it takes, as a rule, to start what was claimed and to settle what has ended.
local LATE = 30
-- ms without a start after which a rate is no longer trusted; it halves with each.
local STALE = 60000
-- ms: so long it is remembered what was too fast, and what was not.
local REMEMBER_BAD, REMEMBER_GOOD = 3600000, 300000

local function within(low, value, high) return math.max(low, math.min(value, high)) end

local function bounds(one)
  local allowed = one.allowed
  local fastest = 1000 / math.max(allowed.interval or 0, allowed.delay or 0, allowed.fastest or 0, 0.001)
  return math.min(allowed.slowest and 1000 / allowed.slowest or RATE_FLOOR, fastest), fastest
end

local function set_rate(one, pace, rate)
  local slowest, fastest = bounds(one)
  pace.rate = within(slowest, rate, fastest)
end

-- What is known of an adaptive key's rate.
local function pace_of(one)
  if one.pace then return one.pace end
  local pace, n = {}, 0
  for number in string.gmatch(one.rate, '[^,]+') do
    n = n + 1
    pace[PACE[n] or 0] = tonumber(number)
  end
  for _, name in ipairs(PACE) do
    -- Damaged, or of another version: it is learnt anew.
    if n ~= #PACE or not (pace[name] and pace[name] > -1e16 and pace[name] < 1e16) then
      pace, n = {rate = RATE_FIRST}, 0
      for i = 2, #PACE do pace[PACE[i]] = 0 end
      break
    end
  end
  one.pace = pace
  set_rate(one, pace, pace.rate)
  return pace
end

-- As it is kept.
function adapt.text(one)
  if not one.allowed.adaptive then return '-' end
  if not one.pace then return one.rate end
  local numbers = {}
  for i, name in ipairs(PACE) do numbers[i] = string.format('%.14g', one.pace[name]) end
  return table.concat(numbers, ',')
end

-- ms between two starts, or nil; and how much of what others were late is made up for: who looks at what may start needs a few ms.
function adapt.interval(one)
  if not one.allowed.adaptive then return one.allowed.interval, 0 end
  local interval = 1000 / pace_of(one).rate
  return interval, one.allowed.interval and 0 or within(5, 500 / interval, 20)
end

-- ms between two starts that it has learnt, or 0.
function adapt.learnt(one) return one.allowed.adaptive and 1000 / pace_of(one).rate or 0 end

-- ms for which that is worth remembering when nothing is started.
function adapt.worth(one)
  if not one.allowed.adaptive then return 0 end
  local pace = pace_of(one)
  return pace.bad > 0 and REMEMBER_BAD or pace.rate > RATE_FIRST and REMEMBER_GOOD or 0
end

local function new_round(pace, at)
  pace.since, pace.starts, pace.done, pace.ends, pace.log = at, 0, 0, 0, 0
end

-- The next attempt beyond what was bad is due when so much has got through after `at`.
local function calm_down(pace, at, held)
  local doubles = 2 ^ math.min(pace.back, CALM_DOUBLES)
  pace.due = at + math.max(math.min(CALM * doubles, CALM_MOST), math.min(CALM_HOLDS * held, CALM_HELD))
  pace.left, pace.step = CALM_LEAST * doubles, 0
end

-- The server's clock is before what was noted by it.
function adapt.set_back(one, now)
  if not one.allowed.adaptive then return end
  local pace = pace_of(one)
  pace.due, pace.deaf = math.min(pace.due, now + CALM_MOST), math.min(pace.deaf, now)
  pace.mark, pace.first = 0, 0
  new_round(pace, now)
end

-- `bad` was too fast: an attempt that has brought next to nothing makes the next one wait longer.
local function note_bad(pace, bad)
  if bad > 1.15 * pace.bad then
    pace.back = 0
  elseif pace.step > 0 then
    pace.back = math.min(pace.back + 1, CALM_DOUBLES)
  end
  pace.bad = bad
end

-- One is started; `last`: when the one before was, or might have been.
function adapt.started(one, now, last)
  if not one.allowed.adaptive then return end
  local pace = pace_of(one)
  local idle = now - last
  if last > 0 and idle > math.max(STALE, 4000 / pace.rate) then
    -- Nothing is gained by waiting, and what was learnt may no longer hold: again with care, and soon a look at what is beyond.
    set_rate(one, pace, math.max(math.min(pace.rate, RATE_FIRST), pace.rate * 2 ^ -(idle / STALE)))
    pace.back, pace.mark, pace.tries = 0, 0, 0
    calm_down(pace, now, 0)
    new_round(pace, now)
  end
  if pace.since == 0 then new_round(pace, now) end
  if pace.first == 0 then pace.first = now end
  pace.starts = pace.starts + 1
end

-- Whether nothing has been let through since the last throttle, as far as one can tell by a run that began then: it was the
-- first one, give or take what it takes to start it and to settle it.
function adapt.is_first(one, began)
  if not one.allowed.adaptive then return true end
  return began <= pace_of(one).first + LATE
end

-- A throttle: nothing is started until it `resumes`. What the site allows lies between what has got through since the last
-- one, and the rate of now. `again`: nothing has got through.
function adapt.slower(one, now, again, resumes)
  if not one.allowed.adaptive then return end
  local pace = pace_of(one)
  if again then
    -- Not even the first one: what is allowed is used up for longer, or it is an outage. In the first case that was it.
    if one.strikes == 3 and pace.sure > 0 then pace.bad = math.min(pace.bad, math.max(SURELY * pace.sure, pace.bad / 8)) end
    if one.strikes > 2 and one.strikes <= 5 then set_rate(one, pace, pace.rate / 2) end
  else
    local elapsed, most = now - pace.since, pace.rate
    if elapsed >= 1000 and pace.starts >= 4 then most = within(most / 2, pace.starts * 1000 / elapsed, most) end
    -- It was not yet as fast as that for long.
    if pace.bad == 0 then most = most / 1.2 end
    local least, rate, bad = most, 0.7 * most, most
    pace.sure = 0
    if pace.mark > 0 then
      local span = now - pace.mark - (pace.fast > 0 and math.exp(pace.fast) or 0)
      -- (A guess, by few.)
      local lowest = most * span < 10000 and most / 2 or most / 4
      pace.sure = pace.passed * 1000 / math.max(span, 1)
      least = within(lowest, pace.sure, most)
      rate, bad = math.min(0.95 * least, 0.9 * most), math.sqrt(least * most)
      if least < 0.8 * most then
        -- Not the rate of now, but what was before it has used up what is allowed.
      elseif pace.step > 0 then
        -- What it was before the attempt was well for long.
        bad = math.max(bad, math.min(most, (BELOW * pace.bad + most) / 2))
      elseif pace.passed >= 100 then
        -- One of so many may be refused: it stays nearly as fast as it was.
        bad = 0.99 * most / BELOW
      end
    end
    -- At a time when it recovers it tells little of what was well before.
    note_bad(pace, math.max(bad, pace.bad / 2))
    set_rate(one, pace, rate)
  end
  if not again then pace.mark, pace.passed = now, 0 end
  pace.first, pace.tries = 0, 0
  -- What an attempt costs; the first ones may cost more.
  local held = (resumes - now) * math.min(2 ^ (pace.back - 2), 1)
  if again and pace.mark > 0 then held = math.min(resumes - pace.mark, SERIES_MOST) end
  calm_down(pace, resumes, held)
  new_round(pace, resumes)
end

local function grow(one, pace, now)
  local target = BELOW * pace.bad
  if pace.bad == 0 then
    set_rate(one, pace, pace.rate * GROWTH)
  elseif pace.step == 0 and pace.rate < 0.995 * target then
    set_rate(one, pace, (pace.rate + target) / 2)
  elseif pace.step > 0 or now >= pace.due and pace.left <= 0 then
    set_rate(one, pace, pace.rate * (1 + math.min(STEP_FIRST * STEP_GROWTH ^ pace.step, STEP_MOST)))
    pace.step = pace.step + 1
  end
end

-- What runs take has risen: is it our doing? Then it falls when there are fewer. True while that is being found out. `mean`
-- ln(ms) that n runs of this round took; `start_rate` and `done_rate`: of the round.
local function queueing(one, pace, mean, n, start_rate, done_rate, now)
  if pace.base == 0 then pace.fast, pace.base = mean, mean end
  pace.fast = pace.fast + (mean - pace.fast) * math.min(1, n / 16)
  pace.base = pace.base + (pace.fast - pace.base) * (pace.fast < pace.base and 0.5 or 0.01)
  local piles_up = done_rate < PILES_UP * start_rate
  if pace.tries == 0 then
    if now < pace.deaf or pace.fast < pace.base + QUEUEING
      or math.exp(pace.fast) - math.exp(pace.base) < QUEUEING_MS then return piles_up end
    pace.before = pace.rate
  elseif mean < pace.base + QUEUEING / 2 then
    local bad = 1.25 * pace.rate
    if pace.step > 0 then bad = math.max(bad, math.min((BELOW * pace.bad + pace.before) / 2, pace.before)) end
    note_bad(pace, bad)
    calm_down(pace, now, 0)
    pace.fast, pace.tries, pace.vain = mean, 0, 0
    return false
  elseif mean < pace.top - 0.1 or done_rate > 1.1 * start_rate then
    -- What had piled up is being worked off.
    pace.top = mean
    return true
  elseif pace.tries >= TRIES and not piles_up then
    -- It is slow, whatever we do.
    pace.fast, pace.base, pace.tries = mean, mean, 0
    pace.deaf, pace.vain = now + DEAF * 2 ^ pace.vain, math.min(pace.vain + 1, 4)
    set_rate(one, pace, pace.before)
    return false
  end
  pace.tries, pace.top = pace.tries + 1, mean
  set_rate(one, pace, TRY * within(pace.rate / 4, math.min(start_rate, done_rate), pace.rate))
  return true
end

-- A run has failed of something else: it was let through, but tells nothing of how well that went.
function adapt.failed(one)
  if not one.allowed.adaptive then return end
  local pace = pace_of(one)
  pace.passed, pace.done = pace.passed + 1, pace.done + 1
end

-- A run got through that began then.
function adapt.faster(one, took, began, now)
  if not one.allowed.adaptive then return end
  local pace = pace_of(one)
  pace.passed, pace.left, pace.done = pace.passed + 1, math.max(0, pace.left - 1), pace.done + 1
  if began < pace.since then return end
  pace.ends, pace.log = pace.ends + 1, pace.log + math.log(math.max(took, 1))
  local elapsed = now - pace.since
  -- Far below what was well before, fewer tell enough.
  local least = pace.rate < BELOW / 2 * pace.bad and ROUND_LEAST / 2 or ROUND_LEAST
  if elapsed < ROUND or pace.ends < least then return end
  local start_rate, done_rate = (pace.starts + 0.5) * 1000 / elapsed, (pace.done + 0.5) * 1000 / elapsed
  if start_rate < USED / 2 * pace.rate then pace.mark = 0 end
  if not queueing(one, pace, pace.log / pace.ends, pace.ends, start_rate, done_rate, now)
    and start_rate >= USED * pace.rate then grow(one, pace, now) end
  new_round(pace, now)
end

end
