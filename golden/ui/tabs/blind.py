"""The Blind tab: vote on pairs of images without knowing which is which; the next pair comes by itself."""

import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any, no_type_check

import gradio as gr
import numpy as np
from PIL import Image

from ...arms import available_arms
from ...checkers import Verdict
from ...checks import shown
from ...compare import Checked, Comparison, Event, Progress, Rendered
from ...errors import GoldenError, InvalidInput
from ...model import Model
from ...request import CompareRequest, validate
from ...sizes import say_unchecked
from ..arms import describe_arm
from ..fields import has_npnet
from ..html import render
from ..pieces import (
    PAGE,
    SESSION_SECONDS,
    connect_stop,
    draw_seed,
    explain_missing_npnet,
    fill_download,
    make_image,
    show_error,
    show_hint,
    show_progress,
    show_status,
)
from ..votes import (
    MAX_VOTES,
    MIN_RANKED,
    VOTES,
    Vote,
    add_preferences,
    cast_vote,
    count_agreement,
    find_preferences,
    rank_arms,
    votes_from_json,
    votes_to_csv,
    votes_to_json,
    win_rate,
)
from . import Page, Tab

KEYS = "Enter for the first pair; vote with ← left, → right, T tie, B both bad. The next pair comes by itself."
TAPS = "Vote with the buttons at the foot. The next pair comes by itself."
TASK = "Two images from different noise: which one matches the prompt better?"
MIN_DISTANCE = 0.05
"""Root mean square of the differences of pixels from 0 to 1, below which the images of a pair look alike.

Of 40 random pairs of the embedded model's standard and golden noise, 20 were below it: the eye finds no difference in
them, and the checker's verdicts were the same.
"""
MAX_SKIPS = 10
SKIPPED = f"Pairs whose images differ by less than {MIN_DISTANCE:.0%} (root mean square over the pixels) are skipped."
KEPT = f" This browser keeps the last {MAX_VOTES} votes."
ALIKE = "The two look alike: skipped. Drawing another pair …"
ALL_ALIKE = (
    f"{MAX_SKIPS} pairs in a row look alike: give another prompt, leave it empty, or choose what is compared below."
)
Judged = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class BlindPair:
    """Two images on show: the request with its arms as (left, right), and the checker's verdicts by arm."""

    id: str
    request: CompareRequest
    verdicts: Mapping[str, Verdict]
    preferred: Mapping[str, str]


@dataclass(frozen=True)
class Ballot:
    """The components of the tab, and its states.

    Attributes:
        pair: the BlindPair on show, None once it was voted on.
        votes: the votes given.
        judged: by pairs' ids, whom the judges prefer: they may be slower than the visitor.
        skipped: how many pairs were skipped because they look alike.
        turn: a new value asks for the next pair.
        kept: votes and skipped pairs as the browser keeps them, those of other models, too.
    """

    model: Model
    prompt: gr.Textbox
    arms: tuple[gr.Dropdown, gr.Dropdown]
    sides: tuple[gr.Image, gr.Image]
    buttons: dict[str, gr.Button]
    status: gr.HTML
    reveal: gr.HTML
    tally: gr.HTML
    as_csv: gr.DownloadButton
    forget: gr.Button
    pair: gr.State
    votes: gr.State
    judged: gr.State
    skipped: gr.State
    turn: gr.State
    kept: gr.BrowserState

    def allow_votes(self, allowed: bool) -> dict:
        return {button: gr.update(interactive=allowed) for button in self.buttons.values()}

    def show_pair(self, pair_id: str, comparison: Comparison) -> dict:
        """Both images, in an order that nobody can know."""
        first, second = comparison.request.arms
        arms = (first, second) if secrets.randbelow(2) else (second, first)
        request = replace(comparison.request, arms=arms)
        images: dict = {side: comparison.images[arm] for side, arm in zip(self.sides, arms, strict=True)}
        pair = BlindPair(pair_id, request, comparison.verdicts, find_preferences(comparison))
        return images | {self.status: show_status(request.prompt), self.pair: pair} | self.allow_votes(True)

    def count(
        self, vote: str, pair: BlindPair | None, votes: Sequence[Vote], judged: Judged, num_skipped: int, before: Any
    ) -> dict:
        """Take a vote, reveal its pair, and ask for the next one; `before` is what the browser kept so far."""
        if pair is None:  # a second press of the key, before the buttons knew of the first
            return {self.status: gr.skip()}
        cast = cast_vote(pair.request, vote, pair.id, pair.preferred)
        counted = add_preferences([*votes, cast], judged)
        unchecked = say_unchecked(cast.request.height, cast.request.width, self.model.spec, self.model.pipeline)
        reveal = show_reveal(cast.request.arms, pair.verdicts, vote, unchecked)
        asked = {self.pair: None, self.turn: pair.id, self.reveal: reveal}
        kept = {self.kept: votes_to_json(counted, num_skipped, self.model.spec, before)}
        return self.allow_votes(False) | asked | kept | self.show_votes(counted, num_skipped)

    def show_votes(self, votes: Sequence[Vote], num_skipped: int) -> dict:
        csv = fill_download(self.as_csv, votes_to_csv(votes).encode(), "golden-votes.csv")
        return {
            self.votes: list(votes),
            self.skipped: num_skipped,
            self.tally: show_tally(votes, num_skipped) if votes else "",
            self.as_csv: csv if votes else gr.update(visible=False),
            self.forget: gr.update(visible=bool(votes)),
        }


def build(page: Page, tab: gr.Tab) -> None:
    with gr.Column(elem_classes="narrow", elem_id="blind"):
        with gr.Row(elem_id="blind_ask"):
            prompt = gr.Textbox(
                label="Prompt",
                placeholder="leave empty for a random prompt" if page.model.checker else "what both images should show",
                lines=1,
                elem_id="blind_prompt",
            )
            start = gr.Button("Start", variant="primary", elem_id="blind_button")
            stop = gr.Button("Stop", variant="stop", elem_id="blind_stop")
        status = gr.HTML(show_status(TASK), elem_id="blind_status")
        gr.HTML(show_hint(KEYS, "hint keys"))
        gr.HTML(show_hint(TAPS, "hint for-touch"))
        with gr.Row(elem_id="blind_images"):
            sides = (make_image("left", "blind_left"), make_image("right", "blind_right"))
        with gr.Row(elem_id="votes"):
            buttons = {
                vote: gr.Button(
                    vote.capitalize(), interactive=False, elem_id=f"vote_{vote.replace(' ', '_')}", min_width=70
                )
                for vote in VOTES
            }
        reveal, tally = gr.HTML("", elem_id="reveal"), gr.HTML("", elem_id="tally")
        with gr.Row(elem_id="blind_files"):
            as_csv = gr.DownloadButton("Votes as CSV", size="sm", visible=False, elem_id="blind_csv")
            forget = gr.Button("Forget all votes", size="sm", visible=False, elem_id="blind_forget")
        arms = build_arms(page.model)
        gr.HTML(show_hint(SKIPPED + KEPT))
    first_states: tuple = (None, [], {}, 0, None)
    pair, votes, judged, skipped, turn = (gr.State(first, time_to_live=SESSION_SECONDS) for first in first_states)
    words = (status, reveal, tally, as_csv, forget)
    ballot = Ballot(
        page.model, prompt, arms, sides, buttons, *words, pair, votes, judged, skipped, turn, page.memory.votes
    )
    connect_pairs(page, ballot, start, stop)
    connect_votes(page, ballot)


def build_arms(model: Model) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Which two arms are compared."""
    choices = [(describe_arm(arm).phrase, arm) for arm in available_arms(model)]
    with gr.Accordion("What is compared", open=False, elem_id="blind_arms"), gr.Row():
        first = gr.Dropdown(choices, value="standard", label="One image is from", elem_id="blind_first")
        second = gr.Dropdown(choices, value=choices[1][1], label="The other is from", elem_id="blind_second")
    return first, second


# --- pairs ------------------------------------------------------------------------------------------------------------


def connect_pairs(page: Page, ballot: Ballot, start: gr.Button, stop: gr.Button) -> None:
    spec, status = page.model.spec, ballot.status

    def draw_request(wanted: Any, arms: tuple[str, str], base: Sequence[Any]) -> CompareRequest:
        if page.model.checker and wanted in (None, ""):
            wanted = next(page.model.checker.sample_prompts(np.random.default_rng()))
        request = replace(page.controls.make_request(base), prompt=wanted, seed=draw_seed(), arms=arms)
        return validate(request, spec)

    def find_pair(draw: Callable[[], CompareRequest], judged: Judged, num_skipped: int) -> Iterator[dict]:
        yield ballot.allow_votes(False) | {ballot.pair: None}
        for _ in range(MAX_SKIPS):
            with closing(page.watch_judged(draw())) as events:
                updates = follow_pair(ballot, events, judged, page.judging.judges is not None)
                if (yield from updates):
                    return
            num_skipped += 1
            yield {ballot.skipped: num_skipped, status: show_status(ALIKE, "running", 0.0)}
        yield {status: show_status(ALL_ALIKE, "error")}

    @no_type_check  # gradio must see that this is a generator, also in tests that check types
    def run(wanted: Any, first: Any, second: Any, judged: Any, num_skipped: Any, *base: Any) -> Any:
        try:
            arms = check_arms(page.model, first, second)
            yield from find_pair(lambda: draw_request(wanted, arms, base), judged, num_skipped)
        except GoldenError as error:
            yield {status: show_error(error)}

    running = gr.on(
        [start.click, ballot.prompt.submit, ballot.turn.change],
        run,
        [ballot.prompt, *ballot.arms, ballot.judged, ballot.skipped, *page.controls.inputs],
        [*ballot.sides, status, ballot.pair, ballot.judged, ballot.skipped, *ballot.buttons.values()],
        concurrency_id="compare",
        concurrency_limit=1,
        trigger_mode="always_last",  # a vote that is faster than the judges asks for the next pair after them
        **(PAGE | {"show_progress": "minimal", "show_progress_on": [status]}),  # the place in the queue
    )
    connect_stop(stop, running, status, "Stopped. Start brings the next pair.")


def follow_pair(ballot: Ballot, events: Iterator[Event], judged: Judged, scored: bool) -> Generator[dict, None, bool]:
    """The updates of one comparison; returns whether its pair was shown, not skipped because it looks alike."""
    pair_id = secrets.token_hex(8)
    for event in events:
        if isinstance(event, Progress):
            yield {ballot.status: show_progress(event)}
        elif isinstance(event, Rendered) and measure_distance(event.images) < MIN_DISTANCE:
            return False
        elif isinstance(event, Checked):
            yield ballot.show_pair(pair_id, event.comparison)
        elif isinstance(event, Comparison) and scored:
            yield {ballot.judged: {**judged, pair_id: find_preferences(event)}}
        elif isinstance(event, Comparison):
            yield ballot.show_pair(pair_id, event)
    return True


def check_arms(model: Model, first: Any, second: Any) -> tuple[str, str]:
    """Two different arms. Raises: InvalidInput in one sentence."""
    choices = available_arms(model)
    if "npnet" in (first, second) and not has_npnet(model):
        raise InvalidInput(explain_missing_npnet(model.spec))
    for arm in (first, second):
        if not isinstance(arm, str) or arm not in choices:
            raise InvalidInput(f"Unknown arm {shown(arm)}: choose two of {', '.join(choices)}.")
    if first == second:
        raise InvalidInput(f"Both images would be from {describe_arm(first).phrase}: choose two different noises.")
    return first, second


def measure_distance(images: Mapping[str, Image.Image]) -> float:
    """How far two images of one size are apart: root mean square over pixels and colours, each from 0 to 1."""
    first, second = (np.asarray(image.convert("RGB"), float) / 255 for image in images.values())
    return float(np.sqrt(np.mean((first - second) ** 2)))


# --- votes ------------------------------------------------------------------------------------------------------------


def connect_votes(page: Page, ballot: Ballot) -> None:
    counts = [ballot.votes, ballot.skipped, ballot.tally, ballot.as_csv, ballot.forget]
    inputs = [ballot.pair, ballot.votes, ballot.judged, ballot.skipped, ballot.kept]
    outputs = [*ballot.buttons.values(), ballot.pair, ballot.turn, ballot.reveal, ballot.status, ballot.kept, *counts]
    for vote, button in ballot.buttons.items():
        button.click(partial(ballot.count, vote), inputs, outputs, **PAGE)

    def restore(kept: Any) -> dict:
        return ballot.show_votes(*votes_from_json(kept, ballot.model.spec))

    def forget() -> dict:
        return ballot.show_votes([], 0) | {ballot.kept: {}, ballot.reveal: ""}

    page.blocks.load(restore, [ballot.kept], counts, **PAGE)
    ballot.forget.click(forget, None, [*counts, ballot.kept, ballot.reveal], **PAGE)


def show_reveal(order: Sequence[str], verdicts: Mapping[str, Verdict], vote: str = "", unchecked: str = "") -> str:
    """What the last pair's images were, and the checker's verdicts on them."""
    sides = zip(("left", "right"), order, strict=True)
    shown_sides = [(side, arm, describe_arm(arm).phrase, verdicts.get(arm)) for side, arm in sides]
    return render("reveal", sides=shown_sides, vote=vote, unchecked=unchecked)


def show_tally(votes: Sequence[Vote], num_skipped: int = 0) -> str:
    """How often golden noise was preferred, the ranking of the arms, and who agrees with the visitor."""
    won = [vote.winner for vote in votes if "npnet" in vote.request.arms and vote.is_decided]
    share, low, high = win_rate(won.count("npnet"), len(won))
    names = [vote.vote for vote in votes]
    pairs = [
        ("golden preferred", f"{won.count('npnet')} of {len(won)}"),
        ("win rate", f"{100 * share:.0f} %" if won else "–"),
        ("95 % interval", f"{100 * low:.0f} to {100 * high:.0f} %"),
        ("ties, both bad", f"{names.count('tie')}, {names.count('both bad')}"),
        ("skipped as alike", str(num_skipped)),
    ]
    ranking = [
        (describe_arm(rating.name).phrase, *map(write_points, astuple(rating.points)), rating.num_votes)
        for rating in rank_arms(votes)
    ]
    agreement = [
        (voter, agreed, total, *(f"{100 * end:.0f}" for end in win_rate(agreed, total)[1:]))
        for voter, (agreed, total) in count_agreement(votes).items()
    ]
    missing = max(0, MIN_RANKED - len(votes))
    return render("tally", pairs=pairs, ranking=ranking, missing=missing, agreement=agreement)


def write_points(points: float) -> str:
    return f"{points:+.0f}".replace("-", "−")


TAB = Tab("Blind", 3, build)
