"""The ACL users of docs/security.md: the lines that a reader would copy, and what scripts need of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from greenworker.scripts import written

DOC = Path(__file__).resolve().parents[2] / "docs" / "security.md"
PASSWORD = "acl-passw0rd"

_LINE = re.compile(r"^ACL SETUSER gw-(\w+) (.+)$", re.MULTILINE)


def rules(namespace: str) -> dict[str, list[str]]:
    """What stands behind `ACL SETUSER gw-<role>` in the document, for this namespace (`*`: any)."""
    found = {
        role: line.replace("{default}", f"{{{namespace}}}").replace("<password>", PASSWORD).split()
        for role, line in _LINE.findall(DOC.read_text(encoding="utf-8"))
    }
    assert set(found) == {"producer", "worker", "dashboard"}
    return found


def url_of(role: str, url: str) -> str:
    """The same server, as this user."""
    return url.replace("://", f"://gw-{role}:{PASSWORD}@")


def commands_of(scripts: Iterable[str], known: set[str]) -> set[str]:
    """Every command that these scripts may call, of those the server knows; shared functions that
    they do not reach left out."""
    return {
        word
        for script in scripts
        for word in re.findall(r"'([A-Z]+)'", _reachable(written(script).decode()))
        if word in known
    }


def _reachable(source: str) -> str:
    source = re.sub(r"--.*", "", source)
    # Names that are only declared, or handed on to the table `keyed` and from it, are not called yet;
    # and of a function that makes others nothing is left.
    for aside in (
        r"^local [\w, ]+$",
        r"^local [\w, ]+ = (keyed\.\w+(, |$))+$",
        r"^(keyed\.\w+(, | = ))+[\w, ]+$",
        r"^(local )?function make_\w+\(\)$",
    ):
        source = re.sub(aside, "", source, flags=re.MULTILINE)
    functions = dict(_functions(source))
    text = _FUNCTION.sub("", source)
    reached: set[str] = set()
    while more := {
        name
        for name in functions
        if name not in reached and re.search(rf"\b{re.escape(name)}\b", text)
    }:
        reached |= more
        text += "".join(functions[name] for name in more)
    return text


# At the left margin, and to the `end` there, or on one line. (Local to its file, or declared before.)
_FUNCTION = re.compile(
    r"^(?:local )?function ([\w.]+)(\([^\n]*\) [^\n]*\bend$|\(.*?^end$)", re.MULTILINE | re.DOTALL
)


def _functions(source: str) -> Iterator[tuple[str, str]]:
    for match in _FUNCTION.finditer(source):
        yield match[1], match[2]
