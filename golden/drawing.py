"""Pictures of noise, and a grid of comparisons as one picture with labels."""

from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

_LIMIT = 3.0  # standard deviations of noise that reach the ends of the scale
_BLUE, _PAPER, _GOLD = (38, 70, 132), (246, 241, 230), (196, 140, 10)
_INK, _MUTED = (30, 26, 20), (111, 103, 90)

OUTCOMES = {
    "golden": ("golden alone is right", (214, 160, 24)),
    "standard": ("standard alone is right", (62, 104, 176)),
    "both": ("both are right", (74, 142, 98)),
    "neither": ("neither is right", (188, 182, 170)),
}
"""What can come of a comparison that is checked: name -> (words, colour)."""


def draw_noise(noise: Tensor) -> Image.Image:
    """A noise (C, h, w) with its first three channels as red, green and blue, one pixel a value."""
    shown = (noise[:3].float() / _LIMIT / 2 + 0.5).clamp(0, 1)
    return Image.fromarray((shown * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy())


def draw_change(source: Tensor, noise: Tensor) -> Image.Image:
    """Where `noise` differs from `source` (both C, h, w): gold where its mean over channels rose, blue where it fell.

    The largest change takes the full colour, so that the picture shows where and not how much.
    """
    change = (noise - source).float().mean(0)
    share = (change / change.abs().max().clamp(min=1e-6))[..., None]
    blue, paper, gold = (torch.tensor(colour, dtype=torch.float32) for colour in (_BLUE, _PAPER, _GOLD))
    shown = paper + share.clamp(min=0) * (gold - paper) - share.clamp(max=0) * (blue - paper)
    return Image.fromarray(shown.round().byte().cpu().numpy())


def singular_values(noise: Tensor) -> list[float]:
    """The singular values of a noise (C, h, w), averaged over its channels, the largest first."""
    return torch.linalg.svdvals(noise.float()).mean(0).tolist()


def to_png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file, with the texts in its `info`."""
    texts = PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            texts.add_text(key, value)
    data = BytesIO()
    image.save(data, "PNG", pnginfo=texts)
    return data.getvalue()


def side_by_side(images: Sequence[Image.Image], side: int) -> Image.Image:
    """Pictures in a row, each `side` pixels high and wide, for a thumbnail."""
    sheet = Image.new("RGB", (side * len(images) + 2 * (len(images) - 1), side), _PAPER)
    for index, image in enumerate(images):
        sheet.paste(_fit(image, side), (index * (side + 2), 0))
    return sheet


def _fit(image: Image.Image, side: int) -> Image.Image:
    return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def draw_grid(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[int, int], tuple[Sequence[Image.Image], str | None]],
    title: str = "",
    side: int = 96,
) -> Image.Image:
    """Comparisons as a table: `cells[row, column]` is (pictures, outcome of OUTCOMES or None); missing ones stay empty.

    Rows carry their label above them, so that long prompts have room. A frame in the outcome's colour and a map of the
    winners at the foot, with its key, say who was right.
    """
    pictures = max((len(images) for images, _ in cells.values()), default=2)
    gap, band, frame = 14, 24, 3
    width_of_cell = pictures * side + (pictures - 1) * 2 + 2 * frame
    body = max(720, len(columns) * (width_of_cell + gap) - gap)
    width, row_height = body + 48, band + side + 2 * frame + gap
    map_height = 22 * len(rows) + 44 if any(outcome for _, outcome in cells.values()) else 0
    height = 24 + (30 if title else 0) + band + len(rows) * row_height + map_height + 18
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 24
    if title:
        draw.text((24, top), _shorten(draw, title, body, 17), _INK, _font(17))
        top += 30
    for column, label in enumerate(columns):
        text = _shorten(draw, label, width_of_cell, 13)
        draw.text((24 + column * (width_of_cell + gap), top), text, _MUTED, _font(13))
    top += band
    for row, label in enumerate(rows):
        draw.text((24, top), _shorten(draw, label, body, 14), _INK, _font(14))
        for column in range(len(columns)):
            left, upper = 24 + column * (width_of_cell + gap), top + band
            box = (left, upper, left + width_of_cell - 1, upper + side + 2 * frame - 1)
            if (row, column) not in cells:
                draw.rectangle(box, outline=(226, 218, 203))
                continue
            images, outcome = cells[row, column]
            if outcome:
                draw.rectangle(box, fill=OUTCOMES[outcome][1])
            sheet.paste(side_by_side(images, side), (left + frame, upper + frame))
        top += row_height
    if map_height:
        _draw_map(draw, top, rows, columns, {at: outcome for at, (_, outcome) in cells.items() if outcome})
    return sheet


def _draw_map(draw: ImageDraw.ImageDraw, top: int, rows: Sequence[str], columns: Sequence[str], outcomes: dict) -> None:
    """Small squares, one a comparison, and the key of their colours beside them."""
    draw.text((24, top), "who is right", _MUTED, _font(13))
    for (row, column), outcome in outcomes.items():
        left, upper = 24 + column * 22, top + 24 + row * 22
        draw.rectangle((left, upper, left + 18, upper + 18), fill=OUTCOMES[outcome][1])
    left = 24 + len(columns) * 22 + 24
    for words, colour in OUTCOMES.values():
        draw.rectangle((left, top + 3, left + 12, top + 15), fill=colour)
        draw.text((left + 18, top), words, _MUTED, _font(13))
        left += 34 + int(draw.textlength(words, _font(13)))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shorten(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    whole = " ".join(text.split())
    shown = whole[: width // 2]  # no text has letters of under two pixels on average
    while shown and draw.textlength(shown + "..." * (shown != whole), _font(size)) > width:
        shown = shown[:-1]
    return shown + "..." * (shown != whole)
