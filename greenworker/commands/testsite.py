"""greenworker testsite serves web sites to test crawlers on, and counts what it saw.

Usage:
  greenworker testsite [options]

Options:
  --hosts N              How many hosts; each is a port. Default: 10
  --pages N              Pages of each host. Default: 20
  --seed N               Decides pages, links, latencies and traps. Default: 7
  --port N               The first host's port, the others have those that follow; 0
                         means free ones. Default: 0
  --latency SECONDS      The median time to an answer. Default: 0.05
 What every host holds its visitors to; 0 means no limit:
  --rate N               Requests a second. Default: 0
  --burst N              So many of them may come at once, after a rest. Default: 1
  --concurrency N        Requests that are open at the same time. Default: 0
  --delay SECONDS        From one arrival to the next. Default: 0
  --tolerance SECONDS    How long a request may need to arrive: who lets them go within
                         the limits is not accused of the way. Default: 0.05
  --police LIST          What is answered with 429 and a Retry-After, and not only counted:
                         some of rate, gap, concurrency, with commas between,
                         or none. Default: rate,concurrency
  --shift LIST           Another rate from then on: 30:5,60:20 means 5 a second after 30
                         seconds, and 20 after 60.
 Traps, as shares of all pages from 0 to 1:
  --traps SHARE          All of the following. Default: 0
  --bursts SHARE         Of the time: bursts of 503, one in each ten seconds.
  --drip SHARE           Pages that trickle, over 2 to 10 seconds.
  --bombs SHARE          Pages that link to 64 kB of gzip which unpack to 64 MB.
  --loops SHARE          Pages that link to redirects without end.
  --broken SHARE         Pages with broken HTML; their links are whole.
  --private SHARE        Pages that link to what robots.txt forbids.
 The end:
  --until-eof            Stop when stdin ends, that is with whoever holds it.
  -h, --help             Show this.

Every host answers /__stats, as JSON: for each host (?host=127.0.0.1:20003 for one, ?total for
the sums) requests, pages served, largest concurrency, smallest gap, refusals, and violations
of the limits beyond the tolerance. /__truth says how many pages there are to be found;
/__set?rate=5 holds all hosts, or ?host=…, to another rate, burst, concurrency or delay from now
on; /__reset counts from nothing. Ends with Ctrl-C.

Nothing of this is set in the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from docopt import DocoptExit, docopt

from greenworker.errors import ConfigError
from greenworker.testsite.counting import Limits
from greenworker.testsite.plan import TRAPS, Settings
from greenworker.testsite.server import serve
from greenworker.testsite.site import Site

_NUMBERS: dict[str, type[int] | type[float]] = {
    **dict.fromkeys(("hosts", "pages", "seed", "port", "burst", "concurrency"), int),
    **dict.fromkeys(("latency", "rate", "delay", "tolerance", "traps", *TRAPS), float),
}


def run(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C; returns the exit code. Takes what follows `testsite`."""
    try:
        parsed = docopt(__doc__, ["testsite", *argv])
    except DocoptExit:
        raise ConfigError(f"{_misread(argv)}; see greenworker testsite --help") from None
    serve(settings(parsed), _say_where, until_eof=parsed["--until-eof"])
    return 0


def settings(parsed: dict[str, Any]) -> Settings:
    """What the options ask for; raises ConfigError."""
    given = {
        name: _number(name, parsed[f"--{name}"], kind)
        for name, kind in _NUMBERS.items()
        if parsed[f"--{name}"] is not None
    }
    limits = Limits(
        **{
            name: given.pop(name)
            for name in ("rate", "burst", "concurrency", "delay")
            if name in given
        }
    )
    if (share := given.pop("traps", None)) is not None:
        given = {**dict.fromkeys(TRAPS, share), **given}
    if (police := parsed["--police"]) is not None:
        given["police"] = tuple(one for one in police.split(",") if one != "none")
    if (shift := parsed["--shift"]) is not None:
        given["shift"] = tuple(_shift(one) for one in shift.split(","))
    return Settings(limits=limits, **given)


def _say_where(site: Site) -> None:
    first, last = site.roots[0], site.roots[-1]
    hosts, pages = site.settings.hosts, site.settings.pages
    print(first)  # alone, for programs that read it
    if hosts > 1:
        print(f"{hosts:,} hosts: {first} to {last}")
    print(f"{hosts * pages:,} pages, {pages:,} on each; seed {site.settings.seed}")
    print(f"{first}__stats tells what they saw", flush=True)


def _number(name: str, text: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"--{name} {text}: give {what}") from None


def _shift(text: str) -> tuple[float, float]:
    after, _, rate = text.partition(":")
    try:
        return float(after), float(rate)
    except ValueError:
        raise ConfigError(f"--shift {text}: give seconds:rate, as in 30:5,60:20") from None


def _misread(argv: Sequence[str]) -> str:
    known = {word.rstrip(",") for word in __doc__.split() if word.startswith("-")}
    for word in argv:
        name = word.partition("=")[0]
        if not name.startswith("-"):
            continue
        if not any(option.startswith(name) for option in known):
            return f"unknown option {name}"
    if argv and argv[-1] in known:
        return f"{argv[-1]} needs a value"
    return (
        f"testsite makes no sense of: {' '.join(argv)}; a module called testsite is run by: "
        "greenworker worker testsite"
    )
