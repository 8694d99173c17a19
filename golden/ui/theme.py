"""The page's theme: paper and ink, gold for golden noise, and the machine's own fonts."""

import gradio as gr

GOLD = (
    "#fdf8ea",
    "#faefcd",
    "#f5df9c",
    "#eecb63",
    "#e3b53a",
    "#c99a1e",
    "#a67a12",
    "#815d0f",
    "#5f4510",
    "#43310d",
    "#2a1f09",
)
STONE = (
    "#fbf9f4",
    "#f4f0e7",
    "#e8e1d3",
    "#d5ccb9",
    "#a89e8b",
    "#7d7465",
    "#5d5649",
    "#443f36",
    "#2b2822",
    "#1b1915",
    "#12110e",
)


def make_theme() -> gr.themes.Base:
    gold = gr.themes.Color(*GOLD, name="gold")
    stone = gr.themes.Color(*STONE, name="stone")
    return gr.themes.Base(
        primary_hue=gold,
        secondary_hue=gold,
        neutral_hue=stone,
        font=("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "monospace"),
        radius_size="lg",
    )
