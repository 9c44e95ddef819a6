"""An endpoint of the platform that records requests, gives prepared answers, and can run a function."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Endpoint:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.then: Callable[[], object] = lambda: None


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        endpoint: Endpoint = self.server.endpoint  # type: ignore[attr-defined]
        endpoint.seen.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        endpoint.then()
        self.send_response(endpoint.answers.pop(0))
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def listening() -> Iterator[Endpoint]:
    server: Any = HTTPServer(("127.0.0.1", 0), _Handler)
    server.endpoint = Endpoint(server.server_port)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.endpoint
    finally:
        server.shutdown()
        server.server_close()
