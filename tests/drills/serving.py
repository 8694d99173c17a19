"""For the drills: the app as its own process, the endpoint as a plain HTTP client uses it, and one line a figure."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 300
ANSWER_SECONDS = 1800


@contextmanager
def run_app(*arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """`python app.py` on a free port, until the block ends; yields its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), *arguments]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_until_served(url, server)
        yield url, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(30)


def wait_until_served(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            httpx.get(url, timeout=30).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise SystemExit("The app did not start.")


def send(client: httpx.Client, url: str, data: Any) -> httpx.Response:
    """Ask the endpoint, as a program without a client library does; `data` may contain what JSON cannot express."""
    body = json.dumps({"data": data})
    return client.post(f"{url}gradio_api/call/compare", content=body, headers={"content-type": "application/json"})


def read_answer(client: httpx.Client, url: str, event_id: str) -> tuple[str, Any]:
    """The last event of a call, "complete" or "error", and its data."""
    kind = ""
    with client.stream("GET", f"{url}gradio_api/call/compare/{event_id}", timeout=ANSWER_SECONDS) as stream:
        for line in stream.iter_lines():
            kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
            if kind in ("error", "complete") and line.startswith("data: "):
                return kind, json.loads(line.removeprefix("data: "))
    return "nothing", None


def ask(client: httpx.Client, url: str, *data: Any) -> tuple[str, Any]:
    """Send and read."""
    started = send(client, url, list(data))
    if started.status_code != 200:
        return "refused", started.text
    return read_answer(client, url, started.json()["event_id"])


def fetch_pixels(client: httpx.Client, answer: dict) -> np.ndarray:
    """The pixels (H, W, 3) of an image that an answer names."""
    with Image.open(BytesIO(client.get(answer["url"]).content)) as image:
        return np.asarray(image.convert("RGB"))


def report(words: str, value: Any) -> None:
    """One figure."""
    print(f"{words + ':':62} {value}", flush=True)
