"""The page before the page: it answers at the app's address at once, and says what is being loaded.

Torch, diffusers and gradio take seconds to import, and a large model takes minutes to load. Nothing of them is imported
here.
"""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from .html import render

STATUS_PATH = "/golden-waiting"
NUM_SECONDS = 2  # after which the page asks again, as far as other clients read it


class WaitingPage:
    """Serves the page within a `with` block; `say` tells it what is being done. The address is free afterwards.

    Every answer but the status is 503 (not yet): a program that waits for the app is not misled.
    """

    def __init__(self, host: str, port: int, model: str) -> None:
        """`model` is its title. Raises: OSError if nothing can be served at the address."""
        self.model = model
        self.doing = "starting"
        self._started = time.monotonic()
        self._server = _make_server(host, port, _make_handler(self))

    def say(self, doing: str) -> None:
        """What is being done, as the page shows it: "loading the model"."""
        self.doing = doing

    def status(self) -> dict[str, str | float]:
        return {"doing": self.doing, "seconds": round(time.monotonic() - self._started, 1)}

    def html(self) -> str:
        return render("waiting", model=self.model, doing=self.doing, status_path=STATUS_PATH)

    def __enter__(self) -> "WaitingPage":
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="waiting page", daemon=True
        ).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.socket.close()  # and not server_close, which would wait for a client that says nothing


def _make_server(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]  # of IPv6, too

    return Server((host, port), handler)


def _make_handler(page: WaitingPage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds until a client that says nothing is left

        def do_GET(self) -> None:
            if self.path == STATUS_PATH:
                self._answer(200, "application/json", json.dumps(page.status()))
            else:
                self._answer(503, "text/html; charset=utf-8", page.html())

        do_HEAD = do_POST = do_GET

        def _answer(self, status: int, kind: str, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Retry-After", str(NUM_SECONDS))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
