"""Endpoint: what a server URL says, checked before anything connects, and shown without secrets.

    redis://[[user]:password@]host[:port][/db]
    rediss://…                                    TLS, certificate and host name verified
    unix://[[user]:password@]/path[?db=0]
    redis+sentinel://[[user]:password@]host[:port],host[:port],…/master[/db]
    rediss+sentinel://…                           TLS, to the sentinels as well

Options after `?`: db, username, password, ssl_… (see TLS_OPTIONS), and for sentinels that ask for
a password of their own sentinel_username and sentinel_password.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from greenworker.errors import ConfigError

Address = tuple[str, int] | str  # host and port, or the path of a unix socket

_PORT, _SENTINEL_PORT = 6379, 26379
# URLs in hints are such that `redact_all` shows them.
_FORMS = (
    "use redis://host:6379/0, rediss://host:6379/0, unix:///path or redis+sentinel://host1,host2/master, "
    "and %2F %3F %23 %40 for / ? # @ in a password"
)

# What may be said about TLS; the rest is ours to say, or Python's default.
TLS_OPTIONS = (
    "ssl_ca_certs",  # a file of certificates to trust instead of the system's
    "ssl_ca_path",  # … a folder of them
    "ssl_ca_data",  # … their text
    "ssl_certfile",  # our own certificate, for a server that asks for one
    "ssl_keyfile",
    "ssl_password",  # of the key file
    "ssl_cert_reqs",  # required (default), optional or none
    "ssl_check_hostname",  # true (default) or false
    "ssl_ciphers",
)
_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")

# A password may hold / ? # @ and end up in any part: only a URL that is plain in all of them is shown.
_HOST = r"(?:[\w.-]+|\[[\w:.%]+\])(?::\d+)?"
_SHOWN = re.compile(
    r"(?P<scheme>[a-z+]+://)?"
    r"(?:(?P<user>[^:@/?#]*):[^/?#]*@|[^/?#]*@)?"
    rf"(?P<place>(?:{_HOST}(?:,{_HOST})*)?(?:/[^?#@]*)?)"
    r"(?:[?#][^@]*)?"
).fullmatch
_URLS = re.compile(r"[a-z]+://\S*")


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says; with sentinels, `address` is the first of them."""

    address: Address
    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    tls: dict[str, str | bool] | None = field(default=None, repr=False)  # None: plain text
    sentinels: tuple[tuple[str, int], ...] = ()
    master: str = ""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)

    def risks(self) -> list[str]:
        """What is unsafe about it, a line each that says the mend."""
        found = []
        hosts = [
            place[0] for place in self.sentinels or (self.address,) if isinstance(place, tuple)
        ]
        away = [host for host in hosts if not _is_here(host)]
        if self.tls is None and away and (self.password or self.sentinel_password):
            found.append(f"the password travels to {away[0]} in plain text: use rediss://")
        if self.tls is not None and not self.tls["ssl_check_hostname"]:
            found.append(
                f"{hosts[0]} is not asked who it is, whoever is in between can read all: "
                "take ssl_cert_reqs and ssl_check_hostname out of the URL"
            )
        return found


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is, how we came to know, and what to do before connecting."""

    url: str = field(repr=False)  # it may hold a password
    source: str = "App(url)"
    prepare: Callable[[], None] | None = field(default=None, compare=False)
    target: Target = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            target = _parse(self.url)
        except (ConfigError, ValueError) as error:
            # urlsplit's words may hold a part of the URL; of one that cannot be read, so may ours.
            ours = isinstance(error, ConfigError) and _SHOWN(self.url) is not None
            # No quotes around it: they would not be told from its end.
            raise ConfigError(
                f"bad server URL {self.redacted or repr('')} (from {self.source}): "
                f"{error if ours else _FORMS}"
            ) from None
        object.__setattr__(self, "target", target)

    @property
    def redacted(self) -> str:
        """The URL without its password."""
        return redact(self.url)


def redact(url: str) -> str:
    """A URL that may be shown: no password, no query; nothing of one that cannot be read for sure."""
    match = _SHOWN(url)
    if match is None:
        return "(unreadable URL)"
    user = f"{match['user']}:***@" if match["user"] is not None else ""
    return f"{match['scheme'] or ''}{user}{match['place']}"


def redact_all(text: str) -> str:
    """A text with each URL in it as `redact` shows it."""
    return _URLS.sub(lambda match: redact(match[0]), text)


def _parse(url: str) -> Target:
    parts = urlsplit(url)
    scheme, _, sentinel = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss", "unix") or sentinel not in ("", "sentinel"):
        raise ConfigError(_FORMS)
    login, _, place = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = unquote(parts.path)
    address: Address = path
    sentinels: tuple[tuple[str, int], ...] = ()
    master = ""
    if sentinel:
        master, _, path = path.strip("/").partition("/")
        if scheme == "unix" or not place or not master:
            raise ConfigError(
                "sentinels need redis+sentinel://host1,host2/master (the name that they know it by)"
            )
        sentinels = tuple(_address(one, _SENTINEL_PORT) for one in place.split(","))
        address = sentinels[0]
    elif scheme != "unix":
        if "," in place:
            raise ConfigError("one host, please; several are for redis+sentinel://")
        address = _address(place, _PORT)
    if scheme != "unix":
        path = path.strip("/")
        if path and not path.isdigit():
            raise ConfigError(f"its database must be a number, not {path!r}")
        options.setdefault("db", path)
    db = options.pop("db", "") or "0"
    if not db.isdigit():
        raise ConfigError(f"its database must be a number, not {db!r}")
    for option in ("sentinel_username", "sentinel_password"):
        if option in options and not sentinels:
            raise ConfigError(f"{option} is for redis+sentinel://")
    return Target(
        address,
        unquote(username) or options.pop("username", ""),
        unquote(password) or options.pop("password", ""),
        int(db),
        sentinels=sentinels,
        master=master,
        sentinel_username=options.pop("sentinel_username", ""),
        sentinel_password=options.pop("sentinel_password", ""),
        tls=_tls(options, scheme == "rediss"),  # what is left
    )


def _address(text: str, default: int) -> tuple[str, int]:
    """`host`, `host:port` or `[::1]:port`; raises ValueError."""
    parts = urlsplit(f"//{text}")
    port = parts.port
    return unquote(parts.hostname or "localhost"), default if port is None else port


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _tls(options: dict[str, str], wanted: bool) -> dict[str, str | bool] | None:
    """What is left of a URL's options: all of them must be about TLS."""
    for option, value in options.items():
        if option not in TLS_OPTIONS:
            known = ("db", "username", "password", *TLS_OPTIONS)
            raise ConfigError(f"no option {option!r}; there are {', '.join(known)}")
        if not wanted:
            raise ConfigError(f"{option} is about TLS: use rediss://")
        if option in _TLS_FILES and not Path(value).exists():
            raise ConfigError(f"{option}: there is no {value!r}")
    if not wanted:
        return None
    required = options.get("ssl_cert_reqs", "required")
    if required not in ("required", "optional", "none"):
        raise ConfigError("ssl_cert_reqs is one of required, optional and none")
    checked = options.get("ssl_check_hostname", "true").lower()
    # Said in any case: redis-py before 6.0 does not look at the host's name by itself.
    check = required != "none" and checked not in ("false", "no", "0", "f", "n")
    return {**options, "ssl_cert_reqs": required, "ssl_check_hostname": check}
