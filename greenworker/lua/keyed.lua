-- Stands behind lines.lua, before scripts that handle keys in any case.

need_keys()
local LIMITS, LIMITS_BY, KNOWN, LATER, IDLE = keyed.LIMITS, keyed.LIMITS_BY, keyed.KNOWN, keyed.LATER, keyed.IDLE
local NEVER, FOR_EVER, CLOSED, CIRCUIT = keyed.NEVER, keyed.FOR_EVER, keyed.CLOSED, keyed.CIRCUIT
local STOPPED, WINDOW, STATE, known_here = keyed.STOPPED, keyed.WINDOW, keyed.STATE, keyed.known_here
local limit_for, note_patterns, forget_declared = keyed.limit_for, keyed.note_patterns, keyed.forget_declared
local known, out, refusal, start, throttle = keyed.known, keyed.out, keyed.refusal, keyed.start, keyed.throttle
local note_end, memorable_until, close_keys = keyed.note_end, keyed.memorable_until, keyed.close_keys
local find_lines, held_key = keyed.find_lines, keyed.held_key
local look_again, find_pair, drop_empty = keyed.look_again, keyed.find_pair, keyed.drop_empty
local look_at_due, look_on, next_of_both = keyed.look_at_due, keyed.look_on, keyed.next_of_both
local forget_idle, clear_turns, give_back = keyed.forget_idle, keyed.clear_turns, keyed.give_back
