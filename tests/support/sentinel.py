"""A master, a replica and three sentinels, which make the replica master when the master is gone."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import redis

from tests.support.eventually import eventually
from tests.support.popen import popen
from tests.support.server import Server, free_port, server_binary

NAME = "tasks"


class SentinelSetup:
    """`first` is the master at the beginning, `second` its replica; `url` is for greenworker.

    A master that does not answer for a second is given up. `config` is the servers' own,
    `password` what the sentinels ask for.
    """

    def __init__(self, *, config: Mapping[str, str] | None = None, password: str = "") -> None:
        self._sentinels: list[subprocess.Popen[bytes]] = []
        self._password = password
        self.ports: list[int] = []
        # A replica asks for its data at once instead of after a second or five.
        common = {
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            **(config or {}),
        }
        self.first = Server(config=common)
        try:
            self.second = Server(config={**common, "replicaof": f"127.0.0.1 {self.first.port}"})
            for number in range(3):
                self._start(self.first.folder / f"sentinel{number}")
            eventually(self._complete, within=30, message="the sentinels have not found each other")
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        secret = f"?sentinel_password={self._password}" if self._password else ""
        return f"redis+sentinel://{hosts}/{NAME}{secret}"

    def master_port(self) -> int:
        """The master's, as the first sentinel says."""
        return int(self.ask(0, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    def ask(self, sentinel: int, *command: str) -> Any:
        password = self._password or None
        with redis.Redis(
            port=self.ports[sentinel], password=password, protocol=2, decode_responses=True
        ) as client:
            return client.execute_command(*command)

    def kill_sentinel(self, number: int) -> None:
        self._sentinels[number].kill()
        self._sentinels[number].wait(10)

    def close(self) -> None:
        for process in self._sentinels:
            process.kill()
            process.wait(10)
        self.first.close()
        if hasattr(self, "second"):
            self.second.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, folder: Path) -> None:
        folder.mkdir()
        port = free_port()
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {NAME} 127.0.0.1 {self.first.port} 2",
            f"sentinel down-after-milliseconds {NAME} 1000",
            f"sentinel failover-timeout {NAME} 4000",
        ]
        if self._password:
            lines += [f"requirepass {self._password}", f"sentinel sentinel-pass {self._password}"]
        conf = folder / "conf"  # it writes there what it learns
        conf.write_text("\n".join(lines) + "\n")
        with (folder / "log").open("wb") as log:
            process = popen(
                [str(server_binary()), str(conf), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sentinels.append(process)
        self.ports.append(port)

    def _complete(self) -> bool:
        """Every sentinel knows the other two, and the replica as one that is in step."""
        for number in range(3):
            try:
                master = self.ask(number, "SENTINEL", "MASTER", NAME)
                replicas = self.ask(number, "SENTINEL", "REPLICAS", NAME)
            except redis.ConnectionError:
                return False
            if _pairs(master).get("num-other-sentinels") != "2":
                return False
            if not any(_pairs(one).get("master-link-status") == "ok" for one in replicas):
                return False
        return True


def _pairs(reply: Any) -> dict[str, str]:
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
