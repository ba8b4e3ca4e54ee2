"""An HTTP server of the tests' own, on loopback."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answers:
    """For a BaseHTTPRequestHandler: answers in JSON, and no log."""

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, body: Any, status: int = 200) -> None:
        self.send(status, json.dumps(body).encode(), "application/json")

    def send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Api(Answers, BaseHTTPRequestHandler):
    """Serves an API whose bodies are JSON."""

    def serve(self, method: str, body: Any) -> None:
        """Answers a request; `body` is None for a GET."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.serve("GET", None)

    def do_POST(self) -> None:
        self.serve("POST", self._body())

    def do_PATCH(self) -> None:
        self.serve("PATCH", self._body())

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], state: Any) -> Iterator[str]:
    """Answers by `handler`, whose `state` is that, for as long as the block runs; gives the server's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"state": state}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
