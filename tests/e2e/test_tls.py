"""The real worker, whose sockets gevent has made, over TLS."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import Project
from tests.support.process import Command
from tests.support.server import Server
from tests.support.tls import Certificate, TlsProxy


def test_a_worker_over_tls(own_server: Server, tmp_path: Path, namespace: str) -> None:
    certificate = Certificate(tmp_path / "tls", "IP:127.0.0.1")
    with TlsProxy(own_server.port, certificate) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={certificate.file}"
        project = Project(tmp_path, url, namespace)
        try:
            tasks = project.module("""
                @app.task
                def double(n):
                    time.sleep(0.01)
                    return 2 * n

                @app.task
                def large(text):
                    return text
            """)
            worker = project.worker("-c", "50")
            results = tasks.double.delay_many([(n,) for n in range(300)])
            assert [result.get(timeout=60) for result in results] == [2 * n for n in range(300)]
            text = "x" * 900_000
            assert tasks.large.delay(text).get(timeout=60) == text
            proxy.cut()
            worker.wait_for("goes on")
            assert tasks.double.delay(21).get(timeout=60) == 42
        finally:
            project.close()


def test_a_worker_does_not_start_with_a_server_it_cannot_trust(
    own_server: Server, tmp_path: Path, namespace: str
) -> None:
    certificate = Certificate(tmp_path / "tls", "DNS:elsewhere.example")
    with TlsProxy(own_server.port, certificate) as proxy:
        for query in ("", f"?ssl_ca_certs={certificate.file}"):
            url = f"rediss://127.0.0.1:{proxy.port}/0{query}"
            (tmp_path / "tasks.py").write_text(
                f"from greenworker import App\napp = App({url!r})\n@app.task\ndef t(): pass\n"
            )
            with Command("tasks", cwd=tmp_path) as worker:
                assert worker.wait() == 2
            (line,) = worker.stderr
            assert "shows a certificate that we do not trust" in line
