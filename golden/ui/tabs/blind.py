"""The Blind tab: vote on two images without knowing which is which."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, no_type_check

import gradio as gr
import numpy as np

from ...checkers import Verdict
from ...compare import Comparison, Progress
from ...errors import GoldenError, InvalidInput
from ...request import validate
from .. import session
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
    show_pairs,
    show_progress,
    show_status,
)
from . import Page, Tab

KEYS = "Enter for a new pair; vote with ← left, → right, T tie, B both bad."
NAMES = {"standard": "standard noise", "npnet": "golden noise"}


@dataclass(frozen=True)
class Ballot:
    """The components of the tab, and its states: the pair on show, and the votes given."""

    sides: list[gr.Image]
    buttons: list[gr.Button]
    status: gr.HTML
    reveal: gr.HTML
    tally: gr.HTML
    as_csv: gr.DownloadButton
    pair: gr.State
    votes: gr.State

    def allow_votes(self, allowed: bool) -> dict:
        return {button: gr.update(interactive=allowed) for button in self.buttons}

    def show_pair(self, comparison: Comparison) -> dict:
        """Both images, in an order that nobody can know."""
        order = ("standard", "npnet") if secrets.randbelow(2) else ("npnet", "standard")
        images = {side: comparison.images[arm] for side, arm in zip(self.sides, order, strict=True)}
        request = comparison.request
        asked = {self.status: show_status(request.prompt), self.pair: (request, order, comparison.verdicts)}
        return images | asked | self.allow_votes(True)

    def count(self, vote: str, pair: tuple | None, votes: list[session.Vote]) -> dict:
        if pair is None:
            return {self.status: show_status("There is no pair to vote on: press New pair.", "error")}
        request, order, verdicts = pair
        votes = [*votes, session.cast_vote(request, order, vote)]
        return self.allow_votes(False) | {
            self.pair: None,
            self.votes: votes,
            self.reveal: show_reveal(order, verdicts),
            self.tally: show_tally(votes),
            self.as_csv: fill_download(self.as_csv, session.votes_to_csv(votes).encode(), "golden-votes.csv"),
        }


def build(page: Page, tab: gr.Tab) -> None:
    pair, votes = gr.State(None, time_to_live=SESSION_SECONDS), gr.State([], time_to_live=SESSION_SECONDS)
    with gr.Column(elem_classes="narrow", elem_id="blind"):
        with gr.Row(elem_id="blind_ask"):
            prompt = gr.Textbox(
                label="Prompt",
                placeholder="leave empty for a random prompt" if page.model.checker else "what both images should show",
                lines=1,
                elem_id="blind_prompt",
            )
            start = gr.Button("New pair", variant="primary", elem_id="blind_button")
            stop = gr.Button("Stop", variant="stop", elem_id="blind_stop")
        status = gr.HTML(show_status("Two images, one from golden noise: which matches the prompt better?"))
        gr.HTML(show_hint(KEYS, "hint keys"))
        with gr.Row(elem_id="blind_images"):
            sides = [make_image(name, elem_id=f"blind_{name}") for name in ("left", "right")]
        with gr.Row(elem_id="votes"):
            buttons = [
                gr.Button(vote.capitalize(), interactive=False, elem_id=f"vote_{vote.replace(' ', '_')}", min_width=70)
                for vote in session.VOTES
            ]
        reveal, tally = gr.HTML("", elem_id="reveal"), gr.HTML("", elem_id="tally")
        as_csv = gr.DownloadButton("Votes as CSV", size="sm", visible=False, elem_id="blind_csv")
    connect(page, Ballot(sides, buttons, status, reveal, tally, as_csv, pair, votes), prompt, start, stop)


def connect(page: Page, ballot: Ballot, prompt: gr.Textbox, start: gr.Button, stop: gr.Button) -> None:
    model, status = page.model, ballot.status

    @no_type_check  # gradio must see that this is a generator, also in tests that check types
    def run(wanted: Any, *base: Any) -> Any:
        if model.checker and wanted in (None, ""):
            wanted = next(model.checker.sample_prompts(np.random.default_rng()))
        try:
            if not has_npnet(model):
                raise InvalidInput(explain_missing_npnet(model.spec))
            request = replace(page.controls.make_request(base), prompt=wanted, seed=draw_seed(), arms=tuple(NAMES))
            request = validate(request, model.spec)
            yield ballot.allow_votes(False) | {ballot.reveal: "", ballot.pair: None}
            for event in page.watch(request):
                if isinstance(event, Progress):
                    yield {status: show_progress(event)}
                elif isinstance(event, Comparison):
                    yield ballot.show_pair(event)
        except GoldenError as error:
            yield {status: show_error(error)}

    running = gr.on(
        [start.click, prompt.submit],
        run,
        [prompt, *page.controls.inputs],
        [*ballot.sides, status, ballot.reveal, ballot.pair, *ballot.buttons],
        concurrency_id="compare",
        concurrency_limit=1,
        **PAGE,
    )
    connect_stop(stop, running, status, "Stopped.")
    counted = [ballot.pair, ballot.votes, ballot.reveal, ballot.tally, ballot.as_csv, status]
    for button, vote in zip(ballot.buttons, session.VOTES, strict=True):
        button.click(partial(ballot.count, vote), [ballot.pair, ballot.votes], [*ballot.buttons, *counted], **PAGE)


def show_reveal(order: tuple[str, str], verdicts: dict[str, Verdict]) -> str:
    """Which image was which, and the checker's verdict on it."""
    return render("reveal", sides=[(arm, NAMES[arm], verdicts.get(arm)) for arm in order])


def show_tally(votes: Sequence[session.Vote]) -> str:
    """The session's win rate of golden noise among decided votes, with its interval."""
    won = [vote.winner for vote in votes]
    num_wins, num_decided = won.count("npnet"), won.count("npnet") + won.count("standard")
    share, low, high = session.win_rate(num_wins, num_decided)
    pairs = [
        ("golden preferred", f"{num_wins} of {num_decided}"),
        ("win rate", f"{100 * share:.0f} %" if num_decided else "–"),
        ("95 % interval", f"{100 * low:.0f} to {100 * high:.0f} %"),
        ("ties, both bad", f"{won.count('tie')}, {won.count('both bad')}"),
    ]
    return show_pairs(pairs, "figures")


TAB = Tab("Blind", 3, build)
