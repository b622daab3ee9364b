"""A site whose pages take 50 ms, as light as gevent allows: `python page_server.py PORT`. Counts what it has served."""

from gevent import monkey

monkey.patch_all()

import sys
from typing import Any

import gevent
from gevent.server import StreamServer
from peers.tasks import slots

TAKES = 0.05  # seconds
BODY = b"<html><body>" + b"x" * 1976 + b"</body></html>"
PAGE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
)


def serve(connection: Any, _: Any) -> None:
    """One request after the other, as long as the client keeps the connection; none is sent before the last is answered."""
    served, request = slots(), b""
    while part := connection.recv(8192):
        request += part
        if request.endswith(b"\r\n\r\n"):
            request = b""
            gevent.sleep(TAKES)
            connection.sendall(PAGE)
            served[0] += 1


if __name__ == "__main__":
    StreamServer(("127.0.0.1", int(sys.argv[1])), serve, backlog=4096).serve_forever()
