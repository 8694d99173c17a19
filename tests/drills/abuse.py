"""What a hostile client sends: malformed requests, other people's files, scripts. On the embedded model.

    python -m tests.drills.abuse                   # a few minutes; the last part drives a real Chromium
    python -m tests.drills.abuse --only requests files

The server runs inside this process, so that every call of its model is counted.
"""

import json
import secrets
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from urllib.parse import quote

import httpx

from golden.errors import ArgumentParser, GoldenError, run_command
from golden.flags import add_flags, flag, read_flags
from golden.model import Model, load_model
from golden.ui.page import build_ui, launch_options
from tests.drills.injection import PAYLOADS, try_payloads
from tests.drills.pages import find_chromium
from tests.drills.serving import ROOT, ask, report

NAN, INF = float("nan"), float("inf")
GOOD = ("a red circle", 0, 1, 5.5, "ddim", 1.0, None, None, ["standard", "npnet"], None)
ODD = (NAN, INF, -INF, True, False, None, "", "x", "1", [], [1], {}, {"a": 1}, 10**400, [[[]]], "\ud800")
WRONG_PROMPTS = (
    "x" * 5_000_000,
    "a dragon",
    " ",
    "\x00",
    "a red circle\x00" * 3,
    "\u202ea red circle",
    "DROP TABLE prompts",
    "red " * 1000,
    7,
)
WRONG_SEEDS = (-1, 2**32, 2**40, 2**63, 0.5, 1e300, -(10**30), "0x10")
WRONG_STEPS = (0, -1, 201, 10_000, 2**40, 1.5, 2.5, 1e9, "20")
WRONG_GUIDANCE = (0, 0.99, 30.01, -5.5, 1e308, 2**40, "5.5")
WRONG_SAMPLERS = ("euler_z", "DDIM", "__class__", "../ddim", "os.system", 7, 1.5)
WRONG_STRENGTHS = (-0.1, 3.01, 99, 1e308, 2**40, "1")
WRONG_SIDES = (0, -8, 7, 129, 4000, 64.5, 2**40, "64")
WRONG_ARMS = ("npnet", ["gold"], ["npnet", "npnet"], ["standard", None], [["npnet"]], ["norm"] * 5, {"0": "npnet"})
WRONG_CONTROLS = (
    7, "/etc/passwd", "data:image/png;base64,AAAA", "http://127.0.0.1:1/x.png", {"path": "/etc/passwd"}, {"path": 7},
    {"path": None, "url": "file:///etc/passwd"}, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"path": "/tmp/gradio/../../etc/passwd", "meta": {"_type": "other"}}, {"path": "x\0"}, {"path": "../app.py"},
)  # fmt: skip
BAD_BODIES = (
    b"", b"{", b"[]", b"null", b"NaN", b"\xff\xfe", b'"data"', b"3", b"{}", b'{"data": 3}', b'{"data": null}',
    b'{"data": {}}', b'{"data": []}', b'{"data": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}',
    b'{"data": ["a red circle", 0, 1, 5.5]', b"[" * 100_000,
    b'{"data":' * 5_000, b'{"data": ["' + b"A" * 5_000_000 + b'"]}', b"<xml/>", b"\x00" * 1000,
)  # fmt: skip
ROUTES = ("file=", "file/", "static/", "assets/", "stream/", "proxy=", "theme.css/", "custom_component/", "")
PATHS = (
    "{canary}", "/etc/passwd", "../../../../../../etc/passwd", "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/etc/passwd", "....//....//....//etc/passwd", "..\\..\\..\\etc\\passwd",
    "file:///etc/passwd", "//etc/passwd", "/./etc/./passwd", "/etc/passwd%00.png", "/proc/self/environ",
    "~/.bashrc", "{root}/app.py", "app.py", "golden/compare.py", "{root}/.git/config",
    "http://127.0.0.1:1/x", "%252e%252e%252fetc%252fpasswd", "..%c0%af..%c0%afetc/passwd", "{tmp}/../{canary}",
)  # fmt: skip
SECRETS = ("root:x:", "def build_ui", "PATH=", "[core]")


@contextmanager
def serve(model: Model) -> Iterator[str]:
    """The page of a model from this process."""
    ui = build_ui(model)
    _, url, _ = ui.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    try:
        yield url
    finally:
        ui.close(verbose=False)


@contextmanager
def count_calls(model: Model) -> Iterator[list[None]]:
    """A list that grows by one at each call of the model's text encoder or UNet."""
    parts, calls = (model.pipeline.text_encoder, model.pipeline.unet), []
    hooks = [part.register_forward_pre_hook(lambda *_: calls.append(None)) for part in parts]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


# --- malformed requests -----------------------------------------------------------------------------------------------


def make_malformed() -> list[tuple]:
    """Requests of which one value, or two, is not allowed."""
    wrong = (WRONG_PROMPTS, WRONG_SEEDS, WRONG_STEPS, WRONG_GUIDANCE, WRONG_SAMPLERS, WRONG_STRENGTHS)
    without_none = tuple(value for value in ODD if value is not None)
    choices = [(*ODD, *values) for values in wrong] + [(*without_none, *WRONG_SIDES)] * 2
    choices += [(*ODD, *WRONG_ARMS), (*without_none, *WRONG_CONTROLS)]
    ones = [(*GOOD[:at], value, *GOOD[at + 1 :]) for at, values in enumerate(choices) for value in values]
    pairs = [
        (GOOD[0], seed, steps, GOOD[3], sampler, strength, *GOOD[6:])
        for (seed, steps), (sampler, strength) in zip(
            product(choices[1], choices[2]), product(choices[4], choices[5]), strict=False
        )
    ]
    return [*ones, *pairs]


def drill_requests(url: str, model: Model, requests: list[tuple]) -> None:
    """Every malformed request gets an error, none of them reaches the model, and the next good one is served."""
    refused, num_requests = 0, len(requests)
    threads = {thread.name for thread in threading.enumerate()}
    with httpx.Client(timeout=120) as client, count_calls(model) as calls:
        for data in requests:
            kind, answer = ask(client, url, *data)
            words = json.dumps(answer)
            refused += kind in ("error", "refused") and "Traceback" not in words
        for path, body in product(list_targets(url, client), BAD_BODIES):
            words = post_body(client, path, body)
            refused += "Traceback" not in words and "complete" not in words
            num_requests += 1
        reached = len(calls)
        kind, _ = ask(client, url, *GOOD)
    report("malformed requests", num_requests)
    report("  refused without internals of the server", f"{refused} of {num_requests}")
    report("  calls of the model by them", reached)
    report("  threads that ended meanwhile", len(threads - {thread.name for thread in threading.enumerate()}))
    report("  the good request after them", kind)
    require(refused == num_requests and not reached and kind == "complete")


def list_targets(url: str, client: httpx.Client) -> list[str]:
    return [f"{url}gradio_api/{name}" for name in ("call/compare", "run/compare", "queue/join", "call/v2/compare")]


def post_body(client: httpx.Client, path: str, body: bytes) -> str:
    """The server's answer to a body, and what follows if it was taken for a call; nothing if it hangs up."""
    try:
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
    except httpx.TransportError:
        return ""
    try:
        event_id = answer.json()["event_id"]
    except (ValueError, KeyError, TypeError):
        return answer.text
    if "/call/" not in path:
        return answer.text
    with client.stream("GET", f"{path}/{event_id}") as stream:
        return "\n".join(stream.iter_lines())


# --- other people's files ---------------------------------------------------------------------------------------------


def drill_files(url: str, paths: Sequence[str] = PATHS) -> None:
    """No form of a path, in an address, an upload or forged file data, gives out a file that is not the page's own."""
    canary, token = Path(tempfile.mkdtemp()) / "canary.png", f"canary-{secrets.token_hex(16)}"
    canary.write_text(token)
    fill = {"canary": str(canary), "root": str(ROOT), "tmp": tempfile.gettempdir()}
    forms = [path.format(**fill) for path in paths]
    tried, disclosed = 0, []

    def look(text: str) -> None:
        nonlocal tried
        tried += 1
        if any(word in text for word in (token, *SECRETS)):
            disclosed.append(text[:80])

    with httpx.Client(timeout=60) as client:
        for route, form in product(ROUTES, forms):
            look(fetch(client, f"{url}gradio_api/{route}{form}"))
            look(fetch(client, f"{url}{route}{quote(form, safe='')}"))
        for form in forms:
            forged = {"path": form, "url": f"file://{form}", "meta": {"_type": "gradio.FileData"}}
            for data in ([forged, *GOOD[1:]], [*GOOD[:4], forged, 1.0]):
                look(json.dumps(ask(client, url, *data)[1]))
            for index in range(count_listeners(client, url)):
                look(join(client, url, index, [forged]))
            look(client.post(f"{url}gradio_api/upload", files={"files": (form, b"x", "image/png")}).text)
    report("path-traversal forms and forged file data", tried)
    report("  that disclosed anything", len(disclosed))
    require(not disclosed)


def fetch(client: httpx.Client, address: str) -> str:
    """What is served at an address; nothing if the server hangs up."""
    try:
        return client.get(address).text
    except httpx.TransportError:
        return ""


def count_listeners(client: httpx.Client, url: str) -> int:
    return len(client.get(f"{url}config").json()["dependencies"])


def join(client: httpx.Client, url: str, index: int, data: list) -> str:
    """Call a listener of the page by its number, and read what comes back."""
    session = secrets.token_hex(5)
    body = {"data": data, "fn_index": index, "session_hash": session, "event_data": None}
    started = client.post(f"{url}gradio_api/queue/join", json=body)
    if started.status_code != 200:
        return started.text
    with client.stream("GET", f"{url}gradio_api/queue/data", params={"session_hash": session}) as stream:
        return "\n".join(stream.iter_lines())


# --- script -----------------------------------------------------------------------------------------------------------


def drill_script(url: str) -> None:
    """No payload runs, wherever the page takes or shows text."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        tried, ran = try_payloads(browser, url)
        browser.close()
    report("script-injection payloads, times the places they went through", f"{len(PAYLOADS)}, {tried}")
    report("  that ran", ran)
    require(not ran)


def require(holds: bool) -> None:
    if not holds:
        raise GoldenError("The drill failed: see the last figures.")


DRILLS = ("requests", "files", "script")


@dataclass(frozen=True)
class AbuseOptions:
    only: tuple[str, ...] = flag(DRILLS, "drills to run", choices=DRILLS)


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, AbuseOptions)
    chosen = read_flags(AbuseOptions, parser.parse_args()).only
    model = load_model("shapes")
    with serve(model) as url:
        if "requests" in chosen:
            drill_requests(url, model, make_malformed())
        if "files" in chosen:
            drill_files(url)
    if "script" in chosen:
        free = Model(
            replace(model.spec, name="free", checker=None), model.pipeline, model.npnet
        )  # any words are a prompt
        with serve(free) as url:
            drill_script(url)


if __name__ == "__main__":
    run_command(main)
