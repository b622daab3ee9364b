"""What of a script is sent (greenworker/trim.py)."""

from __future__ import annotations

import re
from textwrap import dedent

import pytest

from greenworker.scripts import load, written
from greenworker.trim import trimmed
from tests.support.scripts import LUA, NAMES


def trim(source: str) -> list[str]:
    return [line for line in trimmed(dedent(source)).split("\n") if line]


def test_comments_indentation_and_what_is_not_reached_are_left_out() -> None:
    assert trim(
        """\
        -- What it is about.
        local function never(n) return n end
        local function also_never(n)
          return never(n)  -- whatever it is
        end
        local function always(n)
          return n
        end
        return always(1)
        """
    ) == ["local function always(n)", "return n", "end", "return always(1)"]


def test_lines_keep_their_numbers() -> None:
    source = "local MOST = 5\nlocal function never()\n  return 1\nend\n\nreturn MOST\n"
    assert trimmed(source).split("\n") == ["", "", "", "", "", "return 5", ""]


def test_a_constant_is_put_where_its_name_stands() -> None:
    assert trim(
        """\
        local MOST, NAME, KEY = 5, 'it', ROOT .. 'key'
        local FEW, WORD = 2, 'a MOST unlikely word'
        return {FEW, WORD, KEY, other.FEW, 'FEW'}
        """
    ) == [
        "local MOST, NAME, KEY = 5, 'it', ROOT .. 'key'",
        "return {2, 'a MOST unlikely word', KEY, other.FEW, 'FEW'}",
    ]


def test_but_not_one_whose_name_stands_for_something_else_elsewhere() -> None:
    source = """\
        local LATE = 10
        local function inner()
          local LATE = 20
          return LATE
        end
        return LATE + inner()
        """
    assert "local LATE = 10" in trim(source)
    assert "return LATE + inner()" in trim(source)


def test_names_of_keys_that_nothing_uses_are_not_put_together() -> None:
    assert trim(
        """\
        local MSG, STATS, DEAD = ROOT .. 'msg', ROOT .. 'stats', ROOT .. 'dead'
        local QUEUES = ROOT .. 'queues'
        return {STATS, 'MSG'}
        """
    ) == ["local STATS = ROOT .. 'stats'", "return {STATS, 'MSG'}"]


def test_what_only_a_seldom_one_reaches_is_made_in_it() -> None:
    assert trim(
        """\
        local function both(n) return n end
        local function first(n)
          return both(n)
        end
        local function second(n) return first(n) end
        local function bury(id, n)  -- seldom
          return second(n)
        end
        if both(1) then return bury('it', 2) end
        """
    ) == [
        "local function both(n) return n end",
        "local function bury(id, n) local function first(n) return both(n) end"
        " local function second(n) return first(n) end",
        "return second(n)",
        "end",
        "if both(1) then return bury('it', 2) end",
    ]


def test_each_stands_in_the_innermost_one() -> None:
    text = " ".join(
        trim(
            """\
            local function deep() return 1 end
            local function inner()  -- seldom
              return deep()
            end
            local function outer()  -- seldom
              return inner()
            end
            return outer and outer()
            """
        )
    )
    assert text == (
        "local function outer() local function inner() local function deep() return 1 end "
        "return deep() end return inner() end return outer and outer()"
    )


def test_what_is_declared_before_it_is_made_stays() -> None:
    """Inside, it would not know what stands between the two."""
    lines = trim(
        """\
        local late
        local function bury()  -- seldom
          return late()
        end
        local most = 1
        function late() return most end
        return bury()
        """
    )
    assert "function late() return most end" in lines


def test_what_would_find_another_name_stays() -> None:
    lines = trim(
        """\
        local most = compute()
        local function inner() return most end
        local first = most
        local most = first + compute()
        local function bury() return inner() end  -- seldom
        return bury(most)
        """
    )
    assert "local function inner() return most end" in lines


@pytest.mark.parametrize("name", NAMES)
def test_of_every_script_all_that_is_named_is_there(name: str) -> None:
    source = load(name).source.decode()
    defined = set(re.findall(r"\bfunction (\w+)\(", source))
    of_ours = set(re.findall(r"^(?:local )?function (\w+)\(", written(name).decode(), re.MULTILINE))
    assert set(re.findall(r"(?<![.:\w'])\w+", source)) & of_ours <= defined
    assert "--" not in source


def test_every_seldom_function_is_one_that_is_found() -> None:
    marked = {
        line
        for path in LUA.glob("*.lua")
        for line in path.read_text().splitlines()
        if line.endswith("-- seldom")
    }
    assert marked
    assert all(re.fullmatch(r"(local )?function \w+\(.*\)  -- seldom", line) for line in marked)
