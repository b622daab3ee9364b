"""Text of others made fit for a terminal, and times as people say them."""

from __future__ import annotations

from datetime import UTC, datetime

_STEPS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def harmless(text: str) -> str:
    """The text with every character that a terminal may obey, or hide, written as an escape."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def one_line(text: str, most: int | None = None) -> str:
    """The same on one line, cut to `most` characters."""
    line = harmless(" ".join(text.split()))
    return line if most is None or len(line) <= most else line[: most - 1] + "…"


def lines(text: str) -> list[str]:
    """The same line by line."""
    return [harmless(line.expandtabs()) for line in text.split("\n")]


def age(seconds: float) -> str:
    """45s, 12m, 3h, 5d: in the largest unit that fits."""
    for step, unit in _STEPS:
        if seconds >= step:
            return f"{seconds // step:.0f}{unit}"
    return "0s"


def moment(seconds: float) -> str:
    """Epoch seconds as a date and a time; what no calendar holds as it is."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f}"


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "surrogatepass").decode("ascii")
