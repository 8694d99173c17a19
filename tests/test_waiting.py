"""The page before the page: it answers at once, says what is being loaded, and makes room for the app."""

import http.client
import http.server
import json
import socket
import threading
import time
from typing import Any

import pytest

from golden.errors import GoldenError, InvalidInput
from golden.ui import app
from golden.ui.waiting import STATUS_PATH, WaitingPage
from tests.drills.pages import find_chromium

MODEL = "<b>Ours</b> & 'theirs'"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, path: str = "/", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_it_says_what_is_being_done_and_for_how_long(port):
    with WaitingPage("127.0.0.1", port, MODEL) as waiting:
        status, html = ask(port)
        assert status == 503  # so that no program takes it for the app
        assert "&lt;b&gt;Ours&lt;/b&gt; &amp; &#39;theirs&#39;: starting" in html
        assert "<b>Ours" not in html
        waiting.say("loading the model on cpu")
        assert "loading the model on cpu" in ask(port)[1]
        status, text = ask(port, STATUS_PATH)
        assert status == 200
        assert json.loads(text)["doing"] == "loading the model on cpu"
        assert 0 <= json.loads(text)["seconds"] < 60


@pytest.mark.parametrize(("method", "path"), [("POST", "/gradio_api/call/compare"), ("HEAD", "/"), ("GET", "/config")])
def test_every_other_request_is_told_to_come_back(port, method, path):
    with WaitingPage("127.0.0.1", port, MODEL):
        assert ask(port, path, method)[0] == 503


def test_the_address_is_free_afterwards_whoever_is_still_connected(port):
    with WaitingPage("127.0.0.1", port, MODEL), socket.create_connection(("127.0.0.1", port)):
        ask(port)
        before = time.monotonic()
    assert time.monotonic() - before < 5
    app.check_address("127.0.0.1", port)
    with http.server.HTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler):
        pass


def test_an_error_in_loading_frees_the_address_and_is_told(port, monkeypatch):
    def fail(options, suites, say):
        assert ask(port)[0] == 503
        raise InvalidInput("the model is not there")

    monkeypatch.setattr(app, "prepare", fail)
    with pytest.raises(InvalidInput, match="the model is not there"):
        app.main(["--port", str(port)])
    app.check_address("127.0.0.1", port)


def test_the_app_takes_over_at_the_same_address(port, monkeypatch, capsys):
    class Page:
        def launch(self, server_name, server_port, share, theme):
            app.check_address(server_name, server_port)
            assert (server_port, share, theme) == (port, False, "ours")

    monkeypatch.setattr(app, "prepare", lambda options, suites, say: (Page(), {"theme": "ours"}))
    app.main(["--port", str(port)])
    assert f"Shapes (embedded) is loading; http://127.0.0.1:{port}" in capsys.readouterr().out


@pytest.mark.browser
def test_the_page_opens_the_app_with_the_prompt_that_was_typed_meanwhile(port):
    asked: list[str] = []

    class App(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404 if self.path == STATUS_PATH else 200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"app")

        def log_message(self, *arguments: object) -> None:
            pass

    try:
        chromium = find_chromium()
    except GoldenError as error:
        pytest.skip(str(error))
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        follow_the_page(port, page, App)
    assert STATUS_PATH in asked


def follow_the_page(port: int, page: Any, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
    """A person opens the waiting page, types a prompt, and is led to the app."""
    with WaitingPage("127.0.0.1", port, "Shapes") as waiting:
        page.goto(f"http://127.0.0.1:{port}/?seed=5")
        waiting.say("loading libraries")
        page.wait_for_function("document.getElementById('status').textContent.startsWith('Shapes: loading libraries')")
        page.get_by_label("A prompt to begin with").fill("a red star & more")
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.wait_for_url(f"http://127.0.0.1:{port}/?seed=5&prompt=a+red+star+%26+more")
        server.shutdown()
