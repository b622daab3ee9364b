"""Which server an App means."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from greenworker.embedded import EmbeddedServer, find_server
from greenworker.endpoint import Endpoint
from greenworker.errors import EmbeddedUnavailable

_log = logging.getLogger("greenworker")


def find_endpoint(
    url: str | None, source: str, embedded: bool | str | os.PathLike[str]
) -> tuple[Endpoint, EmbeddedServer | None]:
    """The one at `url`, which `source` has said, or of the environment, or else the embedded one, as `App`
    takes it; and our share in that one. Raises ConfigError."""
    if url is not None:
        return Endpoint(url, source), None
    url = os.environ.get("GREENWORKER_URL", "")
    if url and url != "required":
        return Endpoint(url, "GREENWORKER_URL"), None
    if url == "required" or embedded is False:
        by = "GREENWORKER_URL=required" if url else "App(embedded=False)"
        raise EmbeddedUnavailable(
            f"no server URL, and {by} forbids the embedded server: set GREENWORKER_URL=redis://host:6379/0 or App(url)"
        )
    server = EmbeddedServer(None if embedded is True else Path(embedded))
    if not server.folder.exists():
        find_server()  # raises when there is none: then nothing is being used
    _log.warning("no server URL given: using the embedded server in %s", server.folder)
    return Endpoint(server.url, "embedded", prepare=server.ensure), server
