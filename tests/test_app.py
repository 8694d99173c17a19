"""The app over HTTP, as programs use its endpoint, and the pieces of its page."""

import ast
import asyncio
import base64
import dataclasses
import json
import pickle
import re
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
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from jinja2 import UndefinedError
from PIL import Image

import app
from eval import short_suite
from eval.tables import Table
from golden import settings
from golden.arms import ARMS as EVERY_ARM
from golden.checkers import Verdict
from golden.compare import Comparison, run_comparison
from golden.drawing import to_png
from golden.errors import InvalidInput
from golden.flags import flag
from golden.judges import ALL_JUDGES
from golden.model import Model
from golden.models import MODELS
from golden.request import CompareRequest
from golden.statistics import Interval
from golden.ui import composer, controls, fields, flow, glossary, page, pieces, scoreboard, session, tabs, watch
from golden.ui.arms import describe_arm, list_choices
from golden.ui.known import Known
from golden.ui.scoreboard import NO_JUDGES, Judging
from golden.ui.tabs import about, benchmark, blind, history
from golden.ui.votes import cast_vote, votes_to_json
from tests.conftest import break_judge
from tests.drills.load import leave_mid_run

REPOSITORY = Path(app.__file__).parent
PROMPT = "a red circle left of a blue square"
ARMS = ["standard", "npnet"]
CORRECT = Verdict(True, ("asked: 1 star; found: 1 red star",), (("count", True), ("star shape", True)))
HALF = Verdict(False, ("asked: 1 star; found: 2 red stars",), (("count", False), ("star shape", True)))
WRONG = Verdict(False, ("asked: 1 star; found: nothing",), (("count", False), ("star shape", False)))


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(
    model: Model, judging: Judging = NO_JUDGES, runs: Path | None = None, mcp: bool = False
) -> tuple[gr.Blocks, str]:
    """Serve a model's page from this process; returns the page and its address."""
    ui = page.build_ui(model, judging, runs, short_suite)
    _, url, _ = ui.launch(
        server_name="127.0.0.1",
        server_port=find_free_port(),
        prevent_thread_lock=True,
        quiet=True,
        **page.launch_options(mcp),
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
    assert names[:6] == ["prompt", "seed", "num_inference_steps", "guidance_scale", "sampler", "strength"]
    assert names[6:] == ["height", "width", "arms", "control"]


def test_the_endpoint_takes_every_setting_of_a_request(client):
    """Whatever field CompareRequest has: page, endpoint and MCP are made from them."""
    (endpoint,) = client.view_api(return_format="dict", print_info=False)["named_endpoints"].values()
    names = {parameter["parameter_name"] for parameter in endpoint["parameters"]}
    assert names == {field.name for field in dataclasses.fields(CompareRequest)}
    required = {each["parameter_name"] for each in endpoint["parameters"] if not each["parameter_has_default"]}
    assert required == {"prompt"}


def test_the_endpoints_words_reach_programs(client):
    (endpoint,) = client.view_api(return_format="dict", print_info=False)["named_endpoints"].values()
    assert endpoint["description"].startswith("Compare standard and golden noise")
    assert [answer["label"] for answer in endpoint["returns"]] == ["first", "second", "third", "fourth", "result"]


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


def ask_for(prompt: str = PROMPT, seed: int = 0, num_inference_steps: int = 1, **others) -> CompareRequest:
    return CompareRequest(prompt=prompt, seed=seed, num_inference_steps=num_inference_steps, **others)


def test_compare_answers_two_images_and_their_verdicts(client, tiny_shapes):
    standard, golden, third, fourth, result = client.predict(PROMPT, 7, 3, 4.0, "euler", 1.0, api_name="/compare")
    assert third is fourth is None
    request = ask_for(PROMPT, 7, 3, guidance_scale=4.0, sampler="euler", strength=1.0)
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


def test_compare_takes_a_size(client, tiny_shapes):
    standard, golden, *_, result = client.predict(PROMPT, 7, 1, height=96, width=128, api_name="/compare")
    expected = run_comparison(ask_for(seed=7, height=96, width=128), tiny_shapes)
    for arm, path in (("standard", standard), ("npnet", golden)):
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(expected.images[arm]))
    assert (result["settings"]["height"], result["settings"]["width"]) == (96, 128)
    assert result["verdicts"] == {}  # checked at the native size alone


def test_compare_streams_its_progress(client):
    job = client.submit(PROMPT, 1, 60, api_name="/compare")
    steps = [update[-1]["step"] for update in job if "step" in update[-1]]
    assert len(steps) >= 2
    assert steps == sorted(steps)


def test_compare_without_judges_says_so(client):
    *_, result = client.predict(PROMPT, 1, 1, api_name="/compare")
    assert (result["judges"], result["scores"], result["unavailable"]) == ("none", {}, {})


def test_compare_answers_scores_and_a_failing_judge_costs_only_its_own(tiny_shapes, tiny_judges):
    break_judge(tiny_judges, "HPSv2", "There is no HPSv2 here.")
    ui, url = serve(tiny_shapes, Judging(tiny_judges, "embedded"))
    try:
        kind, (standard, golden, *_, result) = call(url, fill_up([PROMPT, 7, 2]))
    finally:
        ui.close(verbose=False)
    assert kind == "complete"
    assert standard["path"] != golden["path"]
    assert result["judges"] == "embedded"
    assert list(result["scores"]) == [name for name in ALL_JUDGES if name != "HPSv2"]
    assert result["unavailable"] == {"HPSv2": "There is no HPSv2 here."}
    assert sum(result["mps_probability"].values()) == pytest.approx(1)
    expected = run_comparison(ask_for(seed=7, num_inference_steps=2), tiny_shapes, tiny_judges)
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
        ([PROMPT, 0, 2, 5.5, "ddim", 1, 7], "The height must be a whole number from 8 to "),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, "64"], "The height must be a whole number from 8 to "),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, 64, 65.5], "The width must be a whole number from 8 to "),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, 64, 4000], "The width must be at most 128 pixels"),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, None, None, "npnet"], "The arms must be a list of names, got 'npnet'."),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, None, None, ["gold"]], "Unknown arm 'gold': choose one of standard, npnet, "),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, None, None, ["npnet", "npnet"]], "Each arm can be compared only once"),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, None, None, ["norm"] * 5], "At most 4 noises are compared at once, got 5."),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, None, None, ARMS, 7], "The control image must be an uploaded file."),
        (
            [PROMPT, 0, 2, 5.5, "ddim", 1, None, None, ARMS, "/etc/passwd"],
            "The control image must be an uploaded file.",
        ),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, None, None, ARMS, {"path": "/etc/passwd"}], "must be an uploaded file."),
        (
            [PROMPT, 0, 2, 5.5, "ddim", 1, None, None, ARMS, {"path": "/tmp/gradio/../../etc/passwd"}],
            "an uploaded file.",
        ),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, None, None, ARMS, {"path": "x\0"}], "must be an uploaded file."),
        ([PROMPT, 0, 2, 5.5, "ddim", 1, None, None, ARMS, [[]]], "The control image must be an uploaded file."),
    ],
    ids=range(36),
)
def test_bad_input_gets_one_sentence(url, values, sentence):
    kind, answer = call(url, fill_up(values))
    assert kind == "error"
    assert sentence in answer["error"]
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 600


def fill_up(values: list) -> list:
    """All values that the endpoint takes, of which the first are given."""
    return [*values, *[PROMPT, 0, 2, 5.5, "ddim", 1.0, None, None, ARMS, None][len(values) :]]


def call(url: str, data: list) -> tuple[str, dict]:
    """Call the endpoint as a program without a client library does; returns the last event and its data."""
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
    "body", ["", "[]", "null", '{"data": 3}', '{"data": []}', '{"data": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}', "{"]
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
    for values in ([forged], [*fill_up([])[:-1], forged]):
        kind, answer = call(url, fill_up(values))
        assert kind == "error"
        assert "root:" not in json.dumps(answer)


def test_a_program_hands_a_control_image_to_a_controlnet(tiny_steered, edges, tmp_path):
    """Both arms follow the uploaded image; without one, and with a file that is no image, one sentence says so."""
    (tmp_path / "edges.png").write_bytes(to_png(edges))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    ui, url = serve(tiny_steered)
    try:
        client = Client(url, verbose=False, download_files=tmp_path, analytics_enabled=False)
        *paths, _, _, result = client.predict(
            PROMPT, 3, 1, control=handle_file(tmp_path / "edges.png"), api_name="/compare"
        )
        with pytest.raises(AppError, match="not a readable PNG, JPEG or WebP file"):
            client.predict(PROMPT, 3, 1, control=handle_file(tmp_path / "broken.jpg"), api_name="/compare")
        with pytest.raises(AppError, match="needs a control image"):
            client.predict(PROMPT, 3, 1, api_name="/compare")
    finally:
        ui.close(verbose=False)
    expected = run_comparison(ask_for(seed=3, control=edges), tiny_steered)
    for path, image in zip(paths, expected.images.values(), strict=True):
        with Image.open(path) as shown:
            np.testing.assert_array_equal(np.asarray(shown), np.asarray(image))
    assert result["settings"]["control"] == settings.hash_image(edges)


def test_a_model_without_a_controlnet_takes_no_control_image(client, edges, tmp_path):
    (tmp_path / "edges.png").write_bytes(to_png(edges))
    with pytest.raises(AppError, match="control image is for a ControlNet"):
        client.predict(PROMPT, 3, 1, control=handle_file(tmp_path / "edges.png"), api_name="/compare")


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
    assert len(client.predict(PROMPT, 1, 2, api_name="/compare")) == 5


def test_a_client_that_leaves_stops_its_comparison(url, client, tiny_shapes, count_steps):
    leave_mid_run(url)
    assert wait_until_free(tiny_shapes)
    assert len(count_steps) < 150
    assert len(client.predict(PROMPT, 1, 2, api_name="/compare")) == 5


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
        kind, answer = call(url, fill_up([]))
    finally:
        ui.close(verbose=False)
    assert kind == "error"
    assert "no NPNet" in answer["error"]


def test_a_page_for_any_model_can_be_built(tiny_model, tiny_judges):
    assert page.build_ui(tiny_model)
    assert page.build_ui(replace(tiny_model, npnet=None), suites=short_suite)
    assert page.build_ui(replace(tiny_model, npnet=None), Judging(tiny_judges, "published"))


# --- one file a tab, one field a setting ------------------------------------------------------------------------------


def test_every_file_in_the_folder_is_a_tab():
    names = [tab.title for tab in tabs.find_tabs()]
    assert names == ["Compare", "Explore", "Blind", "History", "Benchmark", "About"]
    files = {path.stem for path in Path(tabs.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {name.lower() for name in names}


def test_a_new_field_becomes_a_control_and_a_parameter():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LaterRequest(CompareRequest):
        clip_skip: int = flag(0, "layers of the text encoder to skip")
        style: str | None = None
        tiled: bool = False
        mask: Image.Image | None = None

    found = fields.describe_fields(LaterRequest)
    assert list(found)[-5:] == ["clip_skip", "style", "tiled", "control", "mask"]
    assert found["clip_skip"].help == "layers of the text encoder to skip"
    assert found["style"].optional
    kinds = {"clip_skip": gr.Number, "style": gr.Textbox, "tiled": gr.Checkbox, "mask": gr.State}
    with gr.Blocks():
        for name, kind in kinds.items():
            assert isinstance(controls.make_component(found[name], None), kind)
        assert isinstance(controls.make_api_component(found["mask"], None), gr.Image)


def test_the_settings_of_the_page_are_those_of_links_and_files():
    assert tuple(name for name, setting in fields.SETTINGS.items() if not setting.is_image) == settings.NAMES


def test_only_the_page_imports_gradio_and_it_imports_nothing_of_train_and_eval():
    golden = Path(tabs.__file__).parents[2]
    for path in golden.rglob("*.py"):
        on_page = path.is_relative_to(golden / "ui")
        imported = {name.split(".")[0] for name in list_imports(path)}
        assert not imported & {"train", "eval", "app"}, path
        assert on_page or not imported & {"gradio", "jinja2"}, path
        assert on_page or "golden.ui" not in list_imports(path), path


def list_imports(path: Path) -> set[str]:
    """The names of the modules that a file imports, those of this package in full."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(REPOSITORY).parts[: -node.level]
            names |= {".".join((*package, *filter(None, [node.module, alias.name]))) for alias in node.names}
    return {".".join(name.split(".")[:2]) for name in names}


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
    described = tools[0].inputSchema["properties"]
    assert {name: setting.help for name, setting in fields.SETTINGS.items()} == {
        name: described[name]["description"] for name in fields.SETTINGS
    }
    assert not answer.isError
    images = [content for content in answer.content if content.type == "image"]
    expected = run_comparison(ask_for(seed=7, num_inference_steps=2), tiny_shapes)
    for found, image in zip(images, expected.images.values(), strict=True):
        with Image.open(BytesIO(base64.b64decode(found.data))) as shown:
            np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), np.asarray(image))
    assert refused.isError
    assert "The word 'dragon' is outside" in refused.content[0].text


def test_without_its_library_mcp_is_one_sentence(monkeypatch):
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"pip install 'gradio\[mcp\]'"):
        page.launch_options(mcp=True)


# --- ZeroGPU ---------------------------------------------------------------------------------------------------------


def test_a_comparison_can_come_out_of_another_process(tiny_shapes, tiny_judges):
    """ZeroGPU runs the generator in a process of its own: whatever goes in and comes out must survive pickling."""
    request = ask_for(seed=7, num_inference_steps=2)
    assert pickle.loads(pickle.dumps(request)) == request
    events = [pickle.loads(pickle.dumps(event)) for event in watch.make_watch(tiny_shapes, tiny_judges)(request)]
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

    monkeypatch.setattr(watch, "on_gpu", run_elsewhere)
    with pytest.raises(InvalidInput, match="'dragon' is outside"):
        list(watch.make_watch(tiny_shapes)(ask_for("a dragon")))
    assert [type(event) for event in inside] == [InvalidInput]


# --- pieces of the page ----------------------------------------------------------------------------------------------


BAD = "<script>alert(1)</script>"


def make_bad_record() -> session.Record:
    described = {"verdicts": {"standard": {"correct": False}, "npnet": {"correct": True}}}
    return session.Record(1, "now", ask_for(BAD), described, {})


def make_bad_comparison() -> Comparison:
    """As far as the flow looks at one."""
    image, noise = Image.new("RGB", (8, 8)), torch.zeros(4, 8, 8)
    return Comparison(ask_for(BAD), dict.fromkeys(ARMS, image), dict.fromkeys(ARMS, noise), {}, 0.1, 1.0)


def test_text_is_escaped_everywhere():
    verdict = Verdict(False, (BAD,), (("count", False),))
    table = Table(BAD, [BAD], [[BAD, BAD]], BAD, frozenset({(0, 1)}))
    for html in (
        pieces.show_status(BAD, "error"),
        pieces.show_verdict(verdict),
        pieces.show_pairs([(BAD, BAD)], "figures"),
        pieces.show_hint(BAD),
        pieces.show_heading(BAD),
        blind.show_reveal(("npnet", "standard"), {"npnet": verdict}),
        about.show_about([replace(MODELS["sdxl"], title=BAD, repo=BAD)], "sdxl"),
        benchmark.show_outcome(short_suite.Outcome([short_suite.Gain(BAD, Interval(1, 0, 2), BAD)], [table], BAD), 1),
        benchmark.show_report(BAD),
        scoreboard.show_scoreboard(Judging(notice=BAD), ("standard",)),
        page.render("header", model=BAD),
        page.render("intro", known=Known(BAD, (BAD,)), labels={BAD: BAD}),
        page.render("pick", arms=[BAD] * 3),
        composer.show_help([(BAD, [BAD])], BAD),
        flow.show_flow(make_bad_comparison()),
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    assert history.write_caption(make_bad_record()) == f"✗✓ {BAD} · 0"  # gradio shows captions as text


@pytest.mark.parametrize(("arms", "won"), [(("standard", "npnet"), True), (("standard", "norm"), False)])
def test_golden_wins_in_a_caption_only_where_it_took_part(arms, won):
    scores = {"AES": dict(zip(arms, (1.0, 2.0), strict=True))}
    record = replace(make_bad_record(), described={"verdicts": {}, "scores": scores}, images=dict.fromkeys(arms, b""))
    assert ("golden 1 of 1" in history.write_caption(record)) is won
    assert ("golden" in history.write_caption(record)) is won


def test_no_module_of_the_page_writes_html_itself():
    """Templates do, and escape: a tag in a string of Python would be the first of many."""
    for path in Path(tabs.__file__).parents[1].rglob("*.py"):
        strings = [line for line in path.read_text().splitlines() if re.search(r"</?[a-z]\w*[ >]", line)]
        assert strings == [], path


def test_every_arm_has_words_and_the_best_known_come_first(tiny_shapes):
    words = [describe_arm(name) for name in EVERY_ARM]
    for text in (lambda arm: arm.title, lambda arm: arm.short, lambda arm: arm.help):
        assert len({text(arm) for arm in words}) == len(EVERY_ARM)
    assert list_choices(tiny_shapes)[:2] == [("standard", "standard"), ("golden", "npnet")]
    assert describe_arm("brand_new").title == "Brand new"


def test_terms_are_explained_where_they_stand():
    for term, words in glossary.TERMS.items():
        assert f'data-tip="{words}"' in pieces.show_pairs([(term, "1")], "figures").replace("&#39;", "'")
    assert "data-tip" not in pieces.show_pairs([("no term", "1")], "figures")


def test_compare_answers_up_to_four_images_in_the_order_of_the_arms(client, tiny_shapes):
    arms = ["norm", "npnet", "standard", "mismatched"]
    *paths, result = client.predict(PROMPT, 7, 2, arms=arms, api_name="/compare")
    expected = run_comparison(ask_for(seed=7, num_inference_steps=2, arms=tuple(arms)), tiny_shapes)
    for path, (arm, image) in zip(paths, expected.images.items(), strict=True):
        with Image.open(path) as shown:
            assert json.loads(shown.info[settings.PNG_KEY])["arm"] == arm
            np.testing.assert_array_equal(np.asarray(shown), np.asarray(image))
    assert result["settings"]["arms"] == arms
    assert set(result["verdicts"]) == set(arms)


WITHOUT_VERIFIER = {arm for arm in EVERY_ARM if arm != "ascent" and not arm.startswith("select")}


def test_the_endpoint_offers_what_the_model_can_do(tiny_shapes):
    """Of an arm that asks for an NPNet or a verifier there is no mention where there is none."""
    for model, offered in ((tiny_shapes, set(EVERY_ARM)), (replace(tiny_shapes, verifier=None), WITHOUT_VERIFIER)):
        config = page.build_ui(model).get_config_file()
        groups = [part["props"] for part in config["components"] if part["type"] == "checkboxgroup"]
        choices = [{value for _, value in group["choices"]} for group in groups if group["label"] == "arms"]
        assert choices == [offered]


def test_a_missing_value_of_a_template_is_an_error():
    with pytest.raises(UndefinedError):
        pieces.render("status", text="a")


@pytest.mark.parametrize(
    ("standard", "golden", "winner"),
    [
        (CORRECT, CORRECT, None),
        (CORRECT, WRONG, "standard"),
        (WRONG, CORRECT, "npnet"),
        (HALF, WRONG, "standard"),
        (WRONG, WRONG, None),
    ],
)
def test_the_winner_alone_is_correct_or_in_more_attributes(standard, golden, winner):
    assert scoreboard.find_winner({"standard": standard, "npnet": golden}) == winner


def test_nobody_wins_alone():
    assert scoreboard.find_winner({"standard": CORRECT}) is None
    assert scoreboard.find_winner({}) is None


def test_the_tally_counts_decided_votes():
    request = ask_for()
    votes = [
        cast_vote(replace(request, arms=("npnet", "standard")), vote)
        for vote in ("left", "left", "right", "tie", "both bad")
    ]
    html = blind.show_tally(votes)
    assert "2 of 3" in html
    assert "67 %" in html
    assert "1, 1" in html
    assert "0 of 0" in blind.show_tally([])


def test_a_vote_leaves_those_of_other_models_in_the_browser(tiny_shapes):
    request = replace(ask_for(), arms=("npnet", "standard"))
    before = votes_to_json([cast_vote(request, "left")], 3, replace(tiny_shapes.spec, name="another"))
    with gr.Blocks():
        pairs = {"arms": (gr.Dropdown(), gr.Dropdown()), "sides": (gr.Image(), gr.Image())}
        parts = {"model": tiny_shapes, "buttons": {}} | pairs
        others = [field for field in dataclasses.fields(blind.Ballot) if field.name not in parts]
        ballot = blind.Ballot(**parts, **{field.name: field.type() for field in others})
    pair = blind.BlindPair("one", request, {}, {})
    kept = ballot.count("left", pair, [], {}, 0, before)[ballot.kept]
    assert [vote["settings"]["model"] for vote in kept["votes"]] == ["another", tiny_shapes.spec.name]
    assert kept["skipped"] == {"another": 3, tiny_shapes.spec.name: 0}


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
        "--judge-weights",
        "--judge-mode",
        "--memory",
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
        ["--judges", "none", "AES"],
        ["--judge-weights", "kind"],
        ["--judge-mode", "fast"],
        ["--runs", "nowhere"],
    ],
)
def test_bad_arguments_end_in_one_line(arguments):
    done = run_app(*arguments)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "Traceback" not in done.stderr
