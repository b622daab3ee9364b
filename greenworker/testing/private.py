"""A private server for tests, in a folder that is gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greenworker.embedded import FOLDER, EmbeddedServer


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server that lasts as long as the context, or this process; for `clock(app, url=…)`.

    It is the embedded one, in a folder of its own. Raises EmbeddedUnavailable where there is none.
    """
    folder = Path(tempfile.mkdtemp(prefix="greenworker-"))
    embedded = EmbeddedServer(folder / FOLDER)
    try:
        embedded.ensure()
        yield embedded.url
    finally:
        embedded.detach()
        embedded.wait_for_end()
        shutil.rmtree(folder, ignore_errors=True)
