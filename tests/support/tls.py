"""A TLS front for a test server, and certificates made on the spot by openssl."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path

from tests.support.listener import Listener


class Certificate:
    """A self-signed certificate for these names: who trusts it trusts this file."""

    def __init__(self, folder: Path, *names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.key = folder / "cert.pem", folder / "key.pem"
        made = subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-keyout", str(self.key), "-out", str(self.file)),
                *("-subj", "/CN=greenworker tests", "-addext", f"subjectAltName={','.join(names)}"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert made.returncode == 0, made.stderr


class TlsProxy(Listener):
    """Ends TLS on a free port of 127.0.0.1 and passes the rest on to `port`, with real threads."""

    def __init__(self, port: int, certificate: Certificate) -> None:
        self._upstream = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.file, certificate.key)
        super().__init__()

    def _serve(self, raw: socket.socket) -> None:
        # Who does not trust us, or speaks no TLS, is gone.
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(raw, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._upstream)) as server,
        ):
            self.ends += (client, server)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
            back.start()
            self._pass_on(client, server)
            back.join(10)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
