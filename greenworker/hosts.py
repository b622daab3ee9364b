"""Which host a URL is of, as a key may name it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote, urlsplit

from greenworker.errors import BadArguments

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_HOST = re.compile(r"[a-z0-9._-]{1,253}").fullmatch


def host(url: str) -> str:
    """The host of a URL: `example.com`, or `example.com:8080` where the port is not its scheme's own.

    In lower case, without credentials and a dot at the end, in the letters that DNS has (`xn--…`); an IPv6 address
    in brackets. Raises BadArguments for what is no absolute URL.
    """
    if not isinstance(url, str):
        raise BadArguments(f"host({url!r:.80}): give a URL, a text")
    try:
        parts = urlsplit(url.strip())
        name, port = parts.hostname or "", parts.port
        found = _ipv6(unquote(name)) if ":" in name else _name(unquote(name))
    except ValueError:  # a UnicodeError is one
        found, port = "", None
    if not found or not parts.scheme:
        raise BadArguments(f"host({url!r:.80}): give an absolute URL, as in https://example.com/")
    return found if port is None or port == _PORTS.get(parts.scheme) else f"{found}:{port}"


def _name(text: str) -> str:
    if not text.isascii():
        text = text.encode("idna").decode("ascii")
    name = text.lower().removesuffix(".")
    return name if _HOST(name) and ".." not in name and not name.startswith(".") else ""


def _ipv6(text: str) -> str:
    return f"[{ipaddress.IPv6Address(text).compressed}]"
