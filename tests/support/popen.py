"""subprocess.Popen, for tests that begin hundreds of processes from many threads."""

from __future__ import annotations

import errno
import subprocess
from typing import Any


def popen(*args: Any, **options: Any) -> subprocess.Popen[Any]:
    """As subprocess.Popen, which a virtual machine has been seen to answer with EFAULT: once in some
    ten thousand times, nothing was begun, and the same call was good before and after."""
    try:
        return subprocess.Popen(*args, **options)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return subprocess.Popen(*args, **options)
