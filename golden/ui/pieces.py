"""Pieces that several tabs share: status lines, images, figures, downloads, stop buttons."""

import secrets
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from ..checkers import Verdict
from ..checks import MAX_SEED
from ..compare import Comparison, Progress
from ..judges import JudgeSet
from ..model import Model
from ..models import ModelSpec
from .html import render
from .naming import NamedImage
from .watch import Expected

SESSION_SECONDS = 2 * 3600  # how long an idle session's history is kept

# A listener of the page itself: no endpoint, and its input reaches golden's validator as the browser sent it.
PAGE: dict[str, Any] = {"api_visibility": "private", "preprocess": False, "show_progress": "hidden"}

EXAMPLE_SEEDS = (3, 5, 8, 2)
OTHER_EXAMPLES = (
    "a red bicycle leaning on a blue door, morning light",
    "three cats on a windowsill, watercolour",
    "an astronaut reading in a library, oil painting",
)


def list_examples(model: Model) -> list[tuple[str, int]]:
    """Prompts and seeds to start from."""
    prompts = model.checker.examples if model.checker else OTHER_EXAMPLES
    return list(zip(prompts, EXAMPLE_SEEDS, strict=False))


def draw_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def list_arms(model: Model) -> tuple[str, ...]:
    """What the page compares: without an NPNet there is only the standard image."""
    return ("standard", "npnet") if model.npnet is not None else ("standard",)


def explain_missing_npnet(spec: ModelSpec) -> str:
    """One sentence for a model that has no NPNet."""
    return (
        f"There is no NPNet for {spec.title or spec.name}, so golden noise cannot be compared: "
        "train one with train/train_npnet.py, or start the app with --npnet FILE."
    )


# --- words ------------------------------------------------------------------------------------------------------------


def show_status(text: str, kind: str = "quiet", share: float | None = None) -> str:
    """The status line; kind is quiet, running or error, `share` the progress from 0 to 1."""
    return render("status", text=text, kind=kind, share=share)


def show_error(error: Exception) -> str:
    """The status line with what went wrong."""
    return show_status(str(error), "error")


def show_progress(event: Progress) -> str:
    """The status line while a comparison runs, or waits for others."""
    left = event.seconds_left if isinstance(event, Expected) else None
    about = f", about {write_seconds(left)}" if left is not None else ""
    if not event.step:
        ahead = event.num_ahead if isinstance(event, Expected) else 0
        others = f"{ahead} runs" if ahead > 1 else "another run"
        return show_status(f"Waiting for {others} to finish{about} …", "running", 0.0)
    words = f"Step {event.step} of {event.num_steps}{about and about + ' left'}"
    return show_status(words, "running", event.step / event.num_steps)


def write_seconds(seconds: float) -> str:
    """A rough duration in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def show_scoring(comparison: Comparison, judges: JudgeSet | None) -> str:
    """The status line while the judges score."""
    done, total = len(comparison.scores) + len(comparison.unavailable), len(judges.names) if judges else 0
    return show_status(f"Scored by {done} of {total} judges", "running", done / max(1, total))


def show_verdict(verdict: Verdict | None, wins: bool = False) -> str:
    """The checker's verdict on an image, with a badge on the better of two."""
    return render("verdict", verdict=verdict, wins=wins) if verdict else ""


def show_pairs(pairs: Sequence[tuple[str, str]], kind: str) -> str:
    """Names and values as a list; kind is figures, health or outcomes."""
    return render("pairs", pairs=pairs, kind=kind)


def show_hint(text: str, kind: str = "hint") -> str:
    """Small print."""
    return render("paragraph", text=text, kind=kind)


def show_heading(text: str, kind: str = "") -> str:
    return render("heading", text=text, kind=kind)


def format_duration(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 0.1 else f"{1000 * seconds:,.0f} ms"


# --- components -------------------------------------------------------------------------------------------------------


def make_image(label: str, elem_id: str | None = None, small: bool = False) -> gr.Image:
    """An image that is shown, never uploaded, and served without loss."""
    return NamedImage(
        label=label,
        alt_text=label,
        format="png",
        type="pil",
        interactive=False,
        show_label=small,
        container=small,
        buttons=[] if small else ["download", "fullscreen"],
        elem_id=elem_id,
        elem_classes="frame",
    )


def make_start_and_stop(words: str, start_id: str, stop_id: str) -> tuple[gr.Button, gr.Button]:
    """A button, and the one that takes its place while something runs."""
    with gr.Row(elem_classes="go"):
        start = gr.Button(words, variant="primary", elem_id=start_id)
        stop = gr.Button("Stop", variant="stop", elem_id=stop_id)
    return start, stop


def fill_download(button: gr.DownloadButton, data: bytes, name: str) -> Any:
    """An update that makes a download button hand out `data`."""
    return gr.update(value=save_bytes_to_cache(data, name, button.GRADIO_CACHE), visible=True)


def connect_stop(stop: gr.Button, running: Any, status: gr.HTML, words: str) -> None:
    """Let a button stop what runs, then say so through the queue: after the update of a step still on its way."""
    stopped = stop.click(None, None, None, cancels=[running], queue=False, api_visibility="private")
    stopped.then(lambda: show_status(words), None, status, **PAGE)
