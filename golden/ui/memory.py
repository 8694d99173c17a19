"""What the browser keeps from one visit to the next."""

from dataclasses import dataclass

import gradio as gr

# Gradio wants a key to encrypt it with. It is sent to every browser, so that it hides nothing.
KEY = "golden"


@dataclass(frozen=True)
class Memory:
    """Components without a face, outside the tabs: gradio mounts those of a tab, and reads them, when it is opened.

    Attributes:
        records: the history, a list of session.record_to_json.
        newest: a comparison on its way into `records`.
        votes: of votes.votes_to_json.
    """

    records: gr.BrowserState
    newest: gr.BrowserState
    votes: gr.BrowserState


def build_memory() -> Memory:
    return Memory(
        gr.BrowserState([], storage_key="golden-history", secret=KEY),
        gr.BrowserState(None, storage_key="golden-newest", secret=KEY),
        gr.BrowserState({}, storage_key="golden-votes", secret=KEY),
    )
