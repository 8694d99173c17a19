"""`golden app`: the page of a loaded model, served until it is stopped.

Heavy modules are imported where they are used, so that `--help` answers at once.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentParser, GoldenError, InvalidInput
from ..flags import add_flags, flag, read_flags
from ..judges.command import JUDGE_NAMES, MODES, WEIGHT_SETS
from ..models import MODELS, find_model

if TYPE_CHECKING:
    from .switching import Switch

M_ARENA_MAX = -8  # of glibc's mallopt(3)
MEMORY_MODES = ("auto", "high", "low")


@dataclass(frozen=True)
class AppOptions:
    """The command line. Raises: InvalidInput for a port or a folder that cannot be."""

    model: str = flag("shapes", f"one of {', '.join(MODELS)}, a diffusers folder or a hub id")
    models: tuple[str, ...] | None = flag(
        None, "models to choose from on the page, one in memory at a time, in place of --model", metavar="MODEL"
    )
    npnet: str | None = flag(None, "NPNet weights, .safetensors or .pth (default: the model's own)", metavar="FILE")
    judges: tuple[str, ...] | None = flag(
        None,
        f"whose scores to show: all, none, or of {', '.join(JUDGE_NAMES)} (default: all for shapes, none for other "
        "models)",
        metavar="JUDGE",
    )
    judge_weights: str | None = flag(None, "weights of the judges (default: embedded)", choices=WEIGHT_SETS)
    judge_mode: str = flag("auto", "keep all judges in memory, or load one at a time", choices=MODES)
    device: str = flag("auto", "where the model runs: auto, cpu, cuda, cuda:1, mps")
    memory: str = flag("auto", "low fits cards of 8 to 12 GB; auto is high if it fits", choices=MEMORY_MODES)
    host: str = flag("127.0.0.1", "address to serve on; 0.0.0.0 for all")
    port: int = flag(7860, "port to serve on")
    runs: Path | None = flag(None, "folder whose folders are finished benchmarks to show", metavar="FOLDER")
    mcp: bool = flag(False, "offer compare as an MCP tool, too (needs gradio[mcp])")
    share: bool = flag(False, "make a public link through gradio.live")

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise InvalidInput(f"The port must be a whole number from 1 to 65535, got {self.port}.")
        if self.models and self.npnet:
            raise InvalidInput("--npnet is for one model, and --models are several: give either.")
        if self.runs and not self.runs.is_dir():
            raise InvalidInput(f"There is no folder {self.runs}: --runs is the folder that contains the runs' folders.")


def share_one_heap() -> None:
    """Let all threads allocate from one heap, if the C library gives each its own.

    What a comparison in one thread frees, the next in another thread could not use: memory grew for hundreds of them.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library, another system
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def check_address(host: str, port: int) -> None:
    """Raises: InvalidInput if nothing can be served at an address, before the model is loaded."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            if os.name == "posix":  # elsewhere this would let two servers share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # the latter for names that cannot be any host's
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise InvalidInput(f"Port {port} is in use: choose another with --port.") from None
        reason = error.strerror if isinstance(error, OSError) else "the name is not valid"
        raise InvalidInput(f"The app cannot be served on {host}:{port}: {reason}.") from None


def serve(options: AppOptions, suites: str) -> None:
    """Serve the page until it is stopped; while libraries and model load, a page that says so. Raises: GoldenError."""
    share_one_heap()
    if not options.models:
        open_page(options, suites)
        return
    from .switching import Switch

    switch = Switch(options.models)
    while True:
        ui = open_chosen(options, suites, switch)
        if ui is None:
            switch.unload()  # not before: the error held what was loaded
            continue
        try:
            switch.wait()
        finally:
            ui.close(verbose=False)
            switch.unload()


def open_chosen(options: AppOptions, suites: str, switch: "Switch") -> Any:
    """The page of the chosen model; None if that failed and the one before is chosen again. Raises: GoldenError."""
    try:
        return open_page(replace(options, model=switch.take()), suites, switch)
    except GoldenError as error:
        if not switch.go_back(str(error)):
            raise
        return None


def open_page(options: AppOptions, suites: str, switch: "Switch | None" = None) -> Any:
    """Load a model and open its page, which ends with the app or, with a `switch`, when another model is chosen."""
    from .waiting import WaitingPage

    spec = find_model(options.model)
    title = spec.title or spec.name
    chosen = {"switch": switch} if switch else {}
    with WaitingPage(options.host, options.port, title) as waiting:
        print(f"{title} is loading; http://{options.host}:{options.port} says how far it is.", flush=True)
        ui, launch = prepare(options, suites, waiting.say, **chosen)
    if switch:
        launch["prevent_thread_lock"] = True
    try:
        ui.launch(server_name=options.host, server_port=options.port, share=options.share, **launch)
    except (OSError, ValueError) as error:  # the latter if gradio cannot reach its own server within seconds
        raise InvalidInput(f"The app cannot be served on {options.host}:{options.port}: {error}") from None
    return ui


def prepare(
    options: AppOptions, suites: str, say: Callable[[str], None], switch: "Switch | None" = None
) -> tuple[Any, dict[str, Any]]:
    """The page of the loaded model, and the arguments of its launch; `say` is told what is being done."""
    say("loading libraries")
    from ..model import load_model, pick_device
    from ..pipelines import is_spared
    from .loading import explain_failure, follow_loading
    from .page import build_ui, launch_options
    from .scoreboard import choose_judging

    launch = launch_options(options.mcp)
    spec, device = find_model(options.model), pick_device(options.device)
    with explain_failure(spec, device), follow_loading(spec, device, options.memory, say):
        model = load_model(options.model, npnet=options.npnet, device=device, memory=options.memory)
    if switch:
        switch.loaded = model
    mode = "rotating" if options.judge_mode == "auto" and is_spared(model.pipeline) else options.judge_mode
    judging = choose_judging(options.judges, options.judge_weights, mode, model.spec, device)
    say("building the page")
    return build_ui(model, judging, options.runs, import_module(suites), switch=switch, opening=True), launch


def main(argv: Sequence[str] | None = None, prog: str = "app.py") -> None:
    parser = ArgumentParser(prog=prog, description="Compare standard and golden noise in a browser.")
    add_flags(parser, AppOptions)
    options = read_flags(AppOptions, parser.parse_args(argv))
    check_address(options.host, options.port)
    serve(options, "eval.short_suite")  # by name, since it is above this module
