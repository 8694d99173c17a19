"""Several models on one page, one in memory at a time; what a model that loads says of itself."""

import gc
import socket
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

from golden.errors import GoldenError, InvalidInput, MissingWeights
from golden.model import Model
from golden.models import MODELS, find_model
from golden.ui import app, loading, switching
from golden.ui.switching import Switch


def test_only_models_that_the_app_was_started_with_can_be_chosen():
    switch = Switch(("shapes", "sdxl"))
    assert switch.titles == {"shapes": MODELS["shapes"].title, "sdxl": "Stable Diffusion XL"}
    for name in ("hunyuan-dit", None, ["sdxl"], "<b>"):
        with pytest.raises(InvalidInput, match=r"Unknown model .*: choose one of shapes, sdxl"):
            switch.choose(name)
    assert switch.chosen == "shapes"
    switch.choose("sdxl")
    assert switch.chosen == "sdxl"


@pytest.mark.parametrize("names", [("shapes", "shapes"), ("shapes", "nonsense")])
def test_models_that_cannot_be_are_refused_at_the_start(names):
    with pytest.raises(InvalidInput):
        Switch(names)


def test_a_model_that_cannot_be_loaded_gives_the_last_one_back():
    switch = Switch(("shapes", "sdxl"))
    assert not switch.go_back("there is no model to return to at first")
    switch.choose("sdxl")
    assert switch.go_back("SDXL is not there.")
    assert switch.chosen == "shapes"
    assert switch.problem == f"{MODELS['shapes'].title} is back: SDXL is not there."


def test_the_weights_go_even_if_somebody_holds_the_model():
    switch = Switch(("shapes",))
    weights = torch.nn.Linear(2, 2)
    held = switch.loaded = Model(MODELS["shapes"], weights, None)
    switch.unload()
    assert held.pipeline is None
    assert switch.loaded is None


def test_a_second_choice_before_the_page_is_closed_loads_that_model_once(monkeypatch):
    switch = Switch(("shapes", "sdxl", "hunyuan-dit"))
    assert switch.take() == "shapes"
    switch.choose("sdxl")
    monkeypatch.setattr(switching, "time", SimpleNamespace(sleep=lambda seconds: switch.choose("hunyuan-dit")))
    switch.wait()
    assert switch.take() == "hunyuan-dit"
    monkeypatch.undo()
    monkeypatch.setattr(switching, "ANSWER_SECONDS", 0.0)
    waiting = threading.Thread(target=switch.wait, daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive(), "the model is loaded once more"
    assert switch.go_back("Hunyuan-DiT is not there.")
    assert switch.chosen == "shapes", "the model in between was never loaded"
    switch.choose("sdxl")
    waiting.join(30)
    assert not waiting.is_alive()


def test_npnet_is_for_one_model():
    with pytest.raises(InvalidInput, match="--npnet is for one model"):
        app.AppOptions(models=("shapes", "sdxl"), npnet="x.safetensors")


# --- loading ----------------------------------------------------------------------------------------------------------


def test_a_load_says_device_mode_and_gigabytes():
    assert loading.describe_loading("cuda", "low", 0, 0) == "loading the model on cuda, memory mode low"
    said = loading.describe_loading("cpu", "high", 3_210_000_000, 6_000_000_000)
    assert said == "loading the model on cpu, memory mode high, 3.2 GB downloaded, 6.0 GB in memory"


def test_what_is_downloaded_is_counted_as_it_comes(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--stabilityai--stable-diffusion-xl-base-1.0" / "blobs"
    assert loading.size_of_download(find_model("sdxl")) == 0
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").write_bytes(b"12345")
    assert loading.size_of_download(find_model("sdxl")) == 5
    assert loading.size_of_download(MODELS["shapes"]) == 0


def test_the_block_ends_when_the_model_is_there(monkeypatch):
    monkeypatch.setattr(loading, "SECONDS", 0.01)
    said: list[str] = []
    held = iter(range(0, 10**12, 10**9))
    monkeypatch.setattr(loading, "bytes_in_memory", lambda device: next(held))
    enough = threading.Event()

    def say(words: str) -> None:
        said.append(words)
        if len(said) > 3:
            enough.set()

    with loading.follow_loading(MODELS["shapes"], "cpu", "high", say):
        assert enough.wait(30)
    number = len(said)
    assert said[0] == "loading the model on cpu, memory mode high"
    assert said[1].endswith("1.0 GB in memory")
    assert not any(thread.name == "loading" for thread in threading.enumerate())
    assert len(said) == number


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "does not fit in the memory of cpu"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "does not fit in the memory"),
        (MemoryError(), "does not fit in the memory"),
        (RuntimeError("size mismatch\nand more"), r"could not be loaded on cpu: RuntimeError: size mismatch$"),
    ],
    ids=["cuda", "cpu", "python", "other"],
)
def test_a_load_that_fails_is_one_sentence(monkeypatch, error, sentence):
    def load_model(*arguments, **options):
        raise error

    monkeypatch.setattr("golden.model.load_model", load_model)
    with pytest.raises(GoldenError, match=sentence) as raised:
        app.prepare(app.AppOptions(device="cpu"), "eval.short_suite", lambda words: None)
    assert str(raised.value).startswith(MODELS["shapes"].title)


# --- the app ----------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Ends an app that would go on for ever."""


class FakePage:
    def __init__(self, model: str, log: list[str]) -> None:
        self.model, self.log = model, log

    def launch(self, **options: object) -> None:
        assert options["prevent_thread_lock"] is True
        self.log.append(f"open {self.model}")

    def close(self, verbose: bool) -> None:
        self.log.append(f"close {self.model}")


def test_the_app_opens_again_with_the_model_that_was_chosen(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log: list[str] = []
    choices = iter(["sdxl", "hunyuan-dit", None])

    def prepare(options, suites, say, switch):
        if options.model == "hunyuan-dit":
            raise MissingWeights("Hunyuan-DiT is not there.")
        return FakePage(options.model, log), {}

    def wait(switch):
        name = next(choices)
        if name is None:
            log.append(switch.problem)
            raise Stopped
        switch.choose(name)

    monkeypatch.setattr(app, "prepare", prepare)
    monkeypatch.setattr(Switch, "wait", wait)
    options = app.AppOptions(models=("shapes", "sdxl", "hunyuan-dit"), port=port)
    with pytest.raises(Stopped):
        app.serve(options, "eval.short_suite")
    problem = "Stable Diffusion XL is back: Hunyuan-DiT is not there."
    assert log == ["open shapes", "close shapes", "open sdxl", "close sdxl", "open sdxl", problem, "close sdxl"]


def test_what_a_failed_load_held_is_free_before_the_next_one(monkeypatch):
    held: list[weakref.ref] = []

    def open_page(options, suites, switch):
        if held:
            raise Stopped(held[0]() is None)
        if options.model == "shapes":
            switch.choose("sdxl")
            return FakePage("shapes", [])
        half_loaded = torch.nn.Linear(2, 2)
        half_loaded.itself = [half_loaded]  # as pipelines are: nothing but the collector frees it
        held.append(weakref.ref(half_loaded))
        raise MissingWeights("SDXL is not there.")

    monkeypatch.setattr(app, "open_page", open_page)
    monkeypatch.setattr(switching, "ANSWER_SECONDS", 0.0)
    gc.disable()
    try:
        with pytest.raises(Stopped, match="True"):
            app.serve(app.AppOptions(models=("shapes", "sdxl")), "eval.short_suite")
    finally:
        gc.enable()
