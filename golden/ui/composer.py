"""The composer of prompts: lists from which a prompt is chosen, beside the text, which stays editable."""

from typing import Any

import gradio as gr

from ..checkers import Composer
from ..errors import InvalidInput
from .controls import Controls
from .html import render
from .pieces import PAGE

# A list of the composer that changes sends all of them.
SEND = """element.addEventListener("change", () => {
  const lists = Array.from(element.querySelectorAll("select"));
  trigger("select", Object.fromEntries(lists.map((list) => [list.name, list.value])));
})"""


def build_composer(controls: Controls) -> None:
    """Place the composer and what is said of the typed prompt, if the model's prompts have a grammar."""
    checker = controls.model.checker
    composer = checker.composer if checker else None
    if composer is None:
        return
    prompt = controls["prompt"]
    wrong = gr.HTML("", elem_id="prompt_help")
    lists = gr.HTML(show_composer(composer, str(prompt.value)), js_on_load=SEND, elem_id="composer")
    composed = gr.State("")  # so that the lists, which the text came from, are not written anew under the hand

    def compose(event: gr.EventData) -> dict:
        choices = {name: value for name, value in event._data.items() if isinstance(value, str)}
        try:
            text = composer.compose(choices)
        except InvalidInput as error:
            return {wrong: show_help(sentence=str(error))}
        return {prompt: text, composed: text, wrong: ""}

    def follow(text: Any, last: str) -> dict:
        if not isinstance(text, str):
            return {wrong: ""}
        said = {wrong: show_help(composer.find_unknown(text))}
        return said if text == last else said | {lists: show_composer(composer, text), composed: ""}

    direct: dict[str, Any] = PAGE | {"queue": False}
    lists.select(compose, None, [prompt, composed, wrong], **direct)
    prompt.change(  # type: ignore[attr-defined]
        follow, [prompt, composed], [lists, composed, wrong], trigger_mode="always_last", **direct
    )


def show_composer(composer: Composer, prompt: str) -> str:
    """The lists, with the choices that compose a prompt."""
    return render("composer", slots=composer.slots, needs=composer.needs, chosen=composer.take_apart(prompt))


def show_help(unknown: list[tuple[str, list[str]]] | None = None, sentence: str = "") -> str:
    """What is wrong with a prompt; nothing if nothing is."""
    return render("prompt_help", unknown=unknown or [], sentence=sentence)
