"""The audit as tests run it: what it finds, and a link on which something happens meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from greenworker.audit import Audit
from greenworker.findings import Report
from greenworker.probe import Probe
from tests.support.state import Space


def audit(space: Space, limit: int = 100, at_once: int = 500_000) -> Report:
    return Audit(Probe(space.broker._link, space.broker.namespace), limit, at_once).run()


def damage_of(report: Report) -> set[tuple[str, str, str]]:
    return {(finding.kind, finding.where, finding.name) for finding in report.findings}


class Watched:
    """A link that notes how much each scan has read, and lets something happen before each call.

    Keys that begin with one of `hide` are not among the names of keys: they came after those were read.
    """

    def __init__(
        self,
        space: Space,
        meanwhile: Callable[[], object] = lambda: None,
        hide: tuple[str, ...] = (),
    ) -> None:
        self._link = space.broker._link
        self._hidden = tuple(name.encode() for name in hide)
        self._meanwhile = meanwhile
        self.calls = 0
        self.confirmed = 0  # ids
        self.looked_at: dict[str, list[int]] = {}
        self.scans: Counter[str] = Counter()  # by key

    def run(self, script: Any, key: str, *args: Any, **options: Any) -> Any:
        self._meanwhile()
        self.calls += 1
        reply = self._link.run(script, key, *args, **options)
        if script.name == "audit_keys":
            cursor, *rest = reply
            pairs = zip(rest[::2], rest[1::2], strict=True)
            reply = [
                cursor,
                *(
                    word
                    for pair in pairs
                    if not pair[0].startswith(self._hidden or (b"\n",))
                    for word in pair
                ),
            ]
        if script.name == "audit_confirm":
            self.confirmed += len(reply)
        if script.name == "audit_scan":
            self.looked_at.setdefault(args[0], []).append(reply[1])
            self.scans[args[1]] += 1
        return reply

    def execute(self, *command: Any) -> Any:
        raise AssertionError("an audit uses nothing but scripts")

    def close(self) -> None: ...
