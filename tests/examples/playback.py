"""Answers in the form in which models give them, written for the tests; a server that the clients' packages really talk to plays them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Playback:
    """Answers one request after the other, and keeps what was asked. A context manager."""

    def __init__(self, name: str) -> None:
        self.answers: list[Any] = json.loads((HERE / f"{name}.json").read_text())
        self.asked: list[dict[str, Any]] = []
        playback = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                playback.asked.append(json.loads(body) | {"path": self.path})
                answer = json.dumps(playback.answers[len(playback.asked) - 1]).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Playback:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
