"""The app over HTTP, as its endpoint's users meet it, and the pieces of its page."""

import asyncio
import base64
import json
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

import app
from golden import session, settings
from golden.compare import CompareRequest, Comparison, Model, run_comparison
from golden.errors import InvalidInput
from golden.judges import JUDGES
from golden.scoreboard import NO_JUDGES, Judging
from golden.shapes import Verdict
from tests.conftest import break_judge

REPOSITORY = Path(app.__file__).parent
PROMPT = "a red circle left of a blue square"
RIGHT = Verdict(True, ("asked: 1 star; found: 1 red star",), (("count", True), ("star shape", True)))
HALF = Verdict(False, ("asked: 1 star; found: 2 red stars",), (("count", False), ("star shape", True)))
WRONG = Verdict(False, ("asked: 1 star; found: nothing",), (("count", False), ("star shape", False)))


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(
    model: Model, judging: Judging = NO_JUDGES, runs: Path | None = None, mcp: bool = False
) -> tuple[gr.Blocks, str]:
    """Serve a model's page from this process; answers with the page and its address."""
    ui = app.build_ui(model, judging, runs)
    _, url, _ = ui.launch(
        server_name="127.0.0.1",
        server_port=find_free_port(),
        prevent_thread_lock=True,
        quiet=True,
        **app.launch_options(mcp),
    )
    return ui, url


@pytest.fixture(scope="module")
def url(tiny_shapes) -> Iterator[str]:
    ui, address = serve(tiny_shapes)
    yield address
    ui.close(verbose=False)


@pytest.fixture(scope="module")
def client(url, tmp_path_factory) -> Iterator[Client]:
    client = Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"), analytics_enabled=False)
    yield client
    client.close()


def test_the_only_endpoint_is_compare(client):
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert set(endpoints["named_endpoints"]) == {"/compare"}
    assert not endpoints["unnamed_endpoints"]
    names = [parameter["parameter_name"] for parameter in endpoints["named_endpoints"]["/compare"]["parameters"]]
    assert names == ["prompt", "seed", "num_inference_steps", "guidance_scale", "sampler", "strength"]


def test_the_endpoints_words_reach_programs(client):
    (endpoint,) = client.view_api(return_format="dict", print_info=False)["named_endpoints"].values()
    assert endpoint["description"].startswith("Compare standard and golden noise")
    assert [answer["label"] for answer in endpoint["returns"]] == ["standard", "golden", "result"]


def test_a_program_cannot_call_what_only_the_page_may(url):
    """Over plain HTTP, where nobody keeps to the list: none of the page's own listeners has a name to be called by."""
    listeners = httpx.get(f"{url}config", timeout=30).json()["dependencies"]
    assert len(listeners) > 10
    assert [listener["api_name"] for listener in listeners if listener["api_name"]] == ["compare"]
    for name in ("run", "run_1", "open_link", "open_png", "open_report", "roll", "lambda", "false", "None", "unnamed"):
        for route in ("call", "run", "api"):
            answer = httpx.post(f"{url}gradio_api/{route}/{name}", json={"data": []}, timeout=30)
            assert answer.status_code >= 400
            assert "event_id" not in answer.text


def test_compare_answers_two_pictures_and_their_verdicts(client, tiny_shapes):
    standard, golden, result = client.predict(PROMPT, 7, 3, 4.0, "euler", 1.0, api_name="/compare")
    request = CompareRequest(PROMPT, 7, 3, 4.0, "euler", 1.0)
    expected = run_comparison(request, tiny_shapes)
    for arm, path in (("standard", standard), ("npnet", golden)):
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert json.loads(image.info[settings.PNG_KEY])["arm"] == arm
            np.testing.assert_array_equal(np.asarray(image), np.asarray(expected.images[arm]))
        assert settings.from_png(Path(path).read_bytes(), tiny_shapes.spec) == request
    assert result["settings"] == settings.to_dict(request, tiny_shapes.spec)
    assert set(result["verdicts"]) == {"standard", "npnet"}
    assert result["verdicts"]["npnet"]["reasons"][0].startswith("asked: 1 red circle and 1 blue square; found: ")
    assert 0 < result["npnet_seconds"] < result["total_seconds"]
    assert result["overhead"] > 0


def test_compare_fills_in_the_models_defaults(client):
    *_, result = client.predict(prompt=PROMPT, num_inference_steps=2, api_name="/compare")
    assert result["settings"]["guidance_scale"] == 5.5
    assert result["settings"]["sampler"] == "ddim"
    assert result["settings"]["seed"] == 0


def test_compare_streams_its_progress(client):
    job = client.submit(PROMPT, 1, 60, api_name="/compare")
    steps = [update[2]["step"] for update in job if "step" in update[2]]
    assert len(steps) >= 2
    assert steps == sorted(steps)


def test_compare_without_judges_says_so(client):
    *_, result = client.predict(PROMPT, 1, 1, api_name="/compare")
    assert (result["judges"], result["scores"], result["unavailable"]) == ("none", {}, {})


def test_compare_answers_scores_and_a_failing_judge_costs_only_its_own(tiny_shapes, tiny_judges):
    break_judge(tiny_judges, "HPSv2", "There is no HPSv2 here.")
    ui, url = serve(tiny_shapes, Judging(tiny_judges, "embedded"))
    try:
        kind, (standard, golden, result) = call(url, [PROMPT, 7, 2, 5.5, "ddim", 1.0])
    finally:
        ui.close(verbose=False)
    assert kind == "complete"
    assert standard["path"] != golden["path"]
    assert result["judges"] == "embedded"
    assert list(result["scores"]) == [name for name in JUDGES if name != "HPSv2"]
    assert result["unavailable"] == {"HPSv2": "There is no HPSv2 here."}
    assert sum(result["mps_probability"].values()) == pytest.approx(1)
    expected = run_comparison(CompareRequest(PROMPT, 7, 2), tiny_shapes, tiny_judges)
    assert result["scores"]["AES"] == pytest.approx(expected.scores["AES"])
    assert set(result["verdicts"]) == {"standard", "npnet"}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["a dragon"], "The word 'dragon' is outside the shapes world."),
        ([""], "The prompt is empty"),
        (["   "], "The prompt is empty"),
        ([None], "The prompt is empty"),
        ([["a circle"]], "The prompt is empty"),
        (["a " * 3_000_000], "characters: at most"),
        ([PROMPT, -1], "The seed must be a whole number from 0 to 4294967295, got -1."),
        ([PROMPT, 2**40], "The seed must be"),
        ([PROMPT, 10**400], "The seed must be"),
        ([PROMPT, None], "The seed must be"),
        ([PROMPT, True], "The seed must be a whole number from 0 to 4294967295, got True."),
        ([PROMPT, float("nan")], "The seed must be"),
        ([PROMPT, 0, 10_000], "The number of steps must be a whole number from 1 to 200, got 10000."),
        ([PROMPT, 0, 0], "The number of steps must be"),
        ([PROMPT, 0, 2.5], "The number of steps must be a whole number from 1 to 200, got 2.5."),
        ([PROMPT, 0, "20"], "The number of steps must be"),
        ([PROMPT, 0, 2, float("nan")], "The guidance scale must be a number from 1 to 30, got nan."),
        ([PROMPT, 0, 2, float("inf")], "The guidance scale must be"),
        ([PROMPT, 0, 2, {"a": 1}], "The guidance scale must be"),
        ([PROMPT, 0, 2, 5.5, "euler_z"], "Unknown sampler 'euler_z': choose one of ddim, "),
        ([PROMPT, 0, 2, 5.5, 7], "Unknown sampler"),
        ([PROMPT, 0, 2, 5.5, "ddim", 99], "The strength must be a number from 0 to 3, got 99."),
    ],
    ids=range(22),
)
def test_bad_input_gets_one_sentence(url, values, sentence):
    defaults = [PROMPT, 0, 2, 5.5, "ddim", 1.0]
    kind, answer = call(url, [*values, *defaults[len(values) :]])
    assert kind == "error"
    assert sentence in answer["error"]
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 600


def call(url: str, data: list) -> tuple[str, dict]:
    """Call the endpoint as a program without a client library does; answers with the last event and its data."""
    endpoint = f"{url}gradio_api/call/compare"
    started = httpx.post(
        endpoint, content=json.dumps({"data": data}), headers={"content-type": "application/json"}, timeout=60
    )
    started.raise_for_status()
    with httpx.stream("GET", f"{endpoint}/{started.json()['event_id']}", timeout=60) as stream:
        kind = ""
        for line in stream.iter_lines():
            kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
            if kind in ("error", "complete") and line.startswith("data: "):
                return kind, json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended without an answer")


@pytest.mark.parametrize(
    "body", ["", "[]", "null", '{"data": 3}', '{"data": []}', '{"data": [1, 2, 3, 4, 5, 6, 7, 8]}', "{"]
)
def test_a_malformed_request_is_refused_and_the_next_is_served(url, client, body):
    endpoint = f"{url}gradio_api/call/compare"
    answer = httpx.post(endpoint, content=body, headers={"content-type": "application/json"}, timeout=30)
    if answer.status_code == 200:
        with httpx.stream("GET", f"{endpoint}/{answer.json()['event_id']}", timeout=30) as stream:
            assert any(line == "event: error" for line in stream.iter_lines())
    assert "Traceback" not in answer.text
    assert client.predict(PROMPT, 0, 1, api_name="/compare")


def test_an_error_is_escaped_for_the_page(client):
    with pytest.raises(AppError, match="&lt;img") as caught:
        client.predict("a <img src=x onerror=alert(1)>", api_name="/compare")
    assert "<" not in str(caught.value)


def test_a_files_path_from_a_user_is_never_read(url):
    forged = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    kind, answer = call(url, [forged, 0, 2, 5.5, "ddim", 1.0])
    assert kind == "error"
    assert "root:" not in json.dumps(answer)


@pytest.mark.parametrize(
    "path",
    [
        "app.py",
        str(REPOSITORY / "app.py"),
        "/etc/passwd",
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "....//....//etc/passwd",
        "..\\..\\etc\\passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:1/x",
        "/proc/self/environ",
        "~/.bashrc",
        "/etc/passwd%00.png",
    ],
)
@pytest.mark.parametrize("route", ["file=", "file/", "static/", "assets/", "stream/", "proxy=", "theme.css/"])
def test_no_file_outside_the_cache_is_served(url, route, path):
    for prefix in ("gradio_api/", ""):
        answer = httpx.get(f"{url}{prefix}{route}{path}", timeout=30)
        assert "root:" not in answer.text
        assert "def build_ui" not in answer.text
        assert "PATH=" not in answer.text


def wait_until_free(model: Model, seconds: float = 20) -> bool:
    """Whether the model is let go within so many seconds."""
    free = model.lock.acquire(timeout=seconds)
    if free:
        model.lock.release()
    return free


def test_a_cancelled_comparison_stops_within_a_step(client, tiny_shapes, count_steps):
    job = client.submit(PROMPT, 1, 200, api_name="/compare")
    wait_for(lambda: len(count_steps) >= 3)
    job.cancel()
    assert wait_until_free(tiny_shapes)
    assert len(count_steps) < 150
    assert len(client.predict(PROMPT, 1, 2, api_name="/compare")) == 3


def test_a_client_that_leaves_stops_its_comparison(url, client, tiny_shapes, count_steps):
    leaving = Client(url, verbose=False, analytics_enabled=False)
    leaving.submit(PROMPT, 1, 200, api_name="/compare")
    wait_for(lambda: len(count_steps) >= 3)
    leaving.close()
    assert wait_until_free(tiny_shapes)
    assert len(client.predict(PROMPT, 1, 2, api_name="/compare")) == 3


@pytest.fixture
def count_steps(tiny_shapes, monkeypatch) -> list[float]:
    """A list that grows by one at each call of the UNet, which is made slow enough to be interrupted."""
    forward, calls = tiny_shapes.pipeline.unet.forward, []

    def slow_forward(*args, **kwargs):
        calls.append(time.monotonic())
        time.sleep(0.05)
        return forward(*args, **kwargs)

    monkeypatch.setattr(tiny_shapes.pipeline.unet, "forward", slow_forward)
    return calls


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_without_an_npnet_the_endpoint_says_so(tiny_shapes):
    ui, url = serve(replace(tiny_shapes, npnet=None))
    try:
        kind, answer = call(url, [PROMPT, 0, 2, 5.5, "ddim", 1.0])
    finally:
        ui.close(verbose=False)
    assert kind == "error"
    assert "There is no NPNet" in answer["error"]


def test_a_page_for_any_model_can_be_built(tiny_model, tiny_judges):
    assert app.build_ui(tiny_model)
    assert app.build_ui(replace(tiny_model, npnet=None))
    assert app.build_ui(replace(tiny_model, npnet=None), Judging(tiny_judges, "published"))


# --- MCP -------------------------------------------------------------------------------------------------------------


def test_compare_is_a_tool_for_mcp(tiny_shapes):
    """Asked by the protocol's own client: the list of tools, a comparison with progress, and a bad prompt."""
    pytest.importorskip("mcp", reason="the optional extra gradio[mcp] is not installed")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def talk(url: str) -> tuple:
        async with (
            streamable_http_client(f"{url}gradio_api/mcp/") as (reading, writing, _),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            asked = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 2}
            answer = await session.call_tool("compare", asked, progress_callback=note)
            refused = await session.call_tool("compare", {"prompt": "a dragon"})
            return tools, answer, refused

    async def note(progress: float, total: float | None, message: str | None) -> None:
        pass

    ui, url = serve(tiny_shapes, mcp=True)
    try:
        tools, answer, refused = asyncio.run(talk(url))
    finally:
        ui.close(verbose=False)
    assert [tool.name for tool in tools] == ["compare"]
    assert tools[0].inputSchema["required"] == ["prompt"]
    assert tools[0].inputSchema["properties"]["strength"]["description"].startswith("of NPNet's change")
    assert not answer.isError
    pictures = [content for content in answer.content if content.type == "image"]
    expected = run_comparison(CompareRequest(PROMPT, 7, 2), tiny_shapes)
    for picture, image in zip(pictures, expected.images.values(), strict=True):
        with Image.open(BytesIO(base64.b64decode(picture.data))) as shown:
            np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), np.asarray(image))
    assert refused.isError
    assert "The word 'dragon' is outside" in refused.content[0].text


def test_without_its_library_mcp_is_one_sentence(monkeypatch):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"pip install 'gradio\[mcp\]'"):
        app.launch_options(mcp=True)


# --- ZeroGPU ---------------------------------------------------------------------------------------------------------


def test_a_comparison_can_come_out_of_another_process(tiny_shapes, tiny_judges):
    """ZeroGPU runs the generator in a process of its own: whatever goes in and comes out must survive pickling."""
    request = CompareRequest(PROMPT, 7, 2)
    assert pickle.loads(pickle.dumps(request)) == request
    events = [pickle.loads(pickle.dumps(event)) for event in app.make_watch(tiny_shapes, tiny_judges)(request)]
    expected = run_comparison(request, tiny_shapes, tiny_judges)
    assert isinstance(events[-1], Comparison)
    assert events[-1].scores == expected.scores
    assert events[-1].verdicts == expected.verdicts
    for arm, image in expected.images.items():
        np.testing.assert_array_equal(np.asarray(events[-1].images[arm]), np.asarray(image))


def test_an_error_of_another_process_is_still_one_for_people(tiny_shapes, monkeypatch):
    """There an exception would lose its kind, so it comes as a value, and is raised here."""
    inside = []

    def run_elsewhere(run):
        def elsewhere(request):
            for event in run(request):
                inside.append(pickle.loads(pickle.dumps(event)))
                yield inside[-1]

        return elsewhere

    monkeypatch.setattr(app, "on_gpu", run_elsewhere)
    with pytest.raises(InvalidInput, match="'dragon' is outside"):
        list(app.make_watch(tiny_shapes)(CompareRequest("a dragon")))
    assert [type(event) for event in inside] == [InvalidInput]


# --- pieces of the page ----------------------------------------------------------------------------------------------


def test_text_is_escaped_everywhere():
    bad = "<script>alert(1)</script>"
    verdict = Verdict(False, (bad,), (("count", False),))
    card = app.show_card(replace(app.MODELS["sdxl"], title=bad, repo=bad), loaded=True)
    for html in (
        app.show_status(bad, "error"),
        app.show_verdict(verdict),
        app.show_reveal(("npnet", "standard"), {"npnet": verdict}),
        card,
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("standard", "golden", "winner"),
    [
        (RIGHT, RIGHT, None),
        (RIGHT, WRONG, "standard"),
        (WRONG, RIGHT, "npnet"),
        (HALF, WRONG, "standard"),
        (WRONG, WRONG, None),
    ],
)
def test_the_winner_is_right_alone_or_in_more(standard, golden, winner):
    assert app.find_winner({"standard": standard, "npnet": golden}) == winner


def test_nobody_wins_alone():
    assert app.find_winner({"standard": RIGHT}) is None
    assert app.find_winner({}) is None


def test_the_tally_counts_decided_votes():
    request = CompareRequest(PROMPT)
    votes = [
        session.count_vote(request, ("npnet", "standard"), vote)
        for vote in ("left", "left", "right", "tie", "both bad")
    ]
    html = app.show_tally(votes)
    assert "2 of 3" in html
    assert "67 %" in html
    assert "1, 1" in html
    assert "0 of 0" in app.show_tally([])


# --- command line ----------------------------------------------------------------------------------------------------


def run_app(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "app.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)


def test_help_lists_the_options():
    done = run_app("--help")
    assert done.returncode == 0
    for option in (
        "--runs",
        "--mcp",
        "--model",
        "--npnet",
        "--judges",
        "--judge-mode",
        "--host",
        "--port",
        "--share",
        "--device",
    ):
        assert option in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "nope"],
        ["--port", "0"],
        ["--npnet", "nowhere.safetensors"],
        ["--device", "toaster"],
        ["--judges", "kind"],
        ["--judge-mode", "fast"],
        ["--runs", "nowhere"],
    ],
)
def test_bad_arguments_end_in_one_line(arguments):
    done = run_app(*arguments)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "Traceback" not in done.stderr
