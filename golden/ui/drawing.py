"""Images of noise, and a grid of comparisons as one labelled image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..drawing import GAP, PAPER, side_by_side

_LIMIT = 3.0  # standard deviations of noise at the ends of the scale
_BLUE, _GOLD = (38, 70, 132), (196, 140, 10)
_INK, _MUTED, _LINE = (30, 26, 20), (111, 103, 90), (226, 218, 203)

OUTCOMES = {
    "golden": ("only golden is correct", (214, 160, 24)),
    "standard": ("only standard is correct", (62, 104, 176)),
    "both": ("both are correct", (74, 142, 98)),
    "neither": ("neither is correct", (188, 182, 170)),
}
"""How a checked comparison can turn out: name -> (words, colour)."""

RIGHT = "right"
FAULT_COLOURS = {
    RIGHT: (74, 142, 98),
    "unclear": (150, 143, 130),
    "missing": (120, 30, 30),
    "extra": (226, 120, 40),
    "count": (132, 74, 170),
    "shape": (52, 98, 190),
    "colour": (206, 62, 132),
    "attribute": (170, 120, 30),
    "position": (20, 140, 160),
    "background": (128, 96, 50),
}
"""The colour of a frame: green for a right image, and one for each kind of main fault."""

Cells = Mapping[tuple[int, int], tuple[Sequence[Image.Image], str | None]]
"""By (row, column), the images of a comparison and its outcome, a name of OUTCOMES, or None if nothing was checked."""


def draw_noise(noise: Tensor) -> Image.Image:
    """A noise (C, h, w) with its first three channels as red, green and blue, one pixel per value."""
    shown = (noise[:3].float() / _LIMIT / 2 + 0.5).clamp(0, 1)
    return Image.fromarray((shown * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy())


def draw_change(source: Tensor, noise: Tensor) -> Image.Image:
    """Where `noise` differs from `source` (both C, h, w): gold where its channel mean rose, blue where it fell.

    The largest change gets the full colour: the image shows where the noise changed, not by how much.
    """
    change = (noise - source).float().mean(0)
    share = (change / change.abs().max().clamp(min=1e-6))[..., None]
    blue, paper, gold = (torch.tensor(colour, dtype=torch.float32) for colour in (_BLUE, PAPER, _GOLD))
    shown = paper + share.clamp(min=0) * (gold - paper) - share.clamp(max=0) * (blue - paper)
    return Image.fromarray(shown.round().byte().cpu().numpy())


def singular_values(noise: Tensor) -> list[float]:
    """The singular values of a noise (C, h, w), averaged over its channels, largest first."""
    return torch.linalg.svdvals(noise.float()).mean(0).tolist()


# --- a grid -----------------------------------------------------------------------------------------------------------

_MARGIN, _GUTTER, _BAND, _FRAME, _DOT = 24, 14, 24, 3, 22  # pixels; a band is a line of labels, a dot one of the map


def draw_grid(
    rows: Sequence[str], columns: Sequence[str], cells: Cells, title: str = "", side: int = 96
) -> Image.Image:
    """Comparisons as a table with labels, each image `side` pixels high and wide; missing cells stay empty.

    Each row's label is above it, so that long prompts have room. A frame in the outcome's colour shows who was correct,
    and so does a map with its key at the foot.
    """
    num_images = max((len(images) for images, _ in cells.values()), default=2)
    cell_width = num_images * side + (num_images - 1) * GAP + 2 * _FRAME
    body = max(720, len(columns) * (cell_width + _GUTTER) - _GUTTER)
    row_height = _BAND + side + 2 * _FRAME + _GUTTER
    outcomes = {at: outcome for at, (_, outcome) in cells.items() if outcome}
    map_height = _DOT * len(rows) + 44 if outcomes else 0
    height = _MARGIN + (30 if title else 0) + _BAND + len(rows) * row_height + map_height + 18
    sheet = Image.new("RGB", (body + 2 * _MARGIN, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    if title:
        draw.text((_MARGIN, top), _shorten(draw, title, body, 17), _INK, _font(17))
        top += 30
    lefts = [_MARGIN + column * (cell_width + _GUTTER) for column in range(len(columns))]
    for left, label in zip(lefts, columns, strict=True):
        draw.text((left, top), _shorten(draw, label, cell_width, 13), _MUTED, _font(13))
    top += _BAND
    for row, label in enumerate(rows):
        draw.text((_MARGIN, top), _shorten(draw, label, body, 14), _INK, _font(14))
        for column, left in enumerate(lefts):
            box = (left, top + _BAND, left + cell_width - 1, top + _BAND + side + 2 * _FRAME - 1)
            _draw_cell(sheet, draw, box, cells.get((row, column)), side)
        top += row_height
    if outcomes:
        _draw_map(draw, top, len(columns), outcomes)
    return sheet


@dataclass(frozen=True)
class Strip:
    """A row of images from one kind of noise: its name, (image, RIGHT or its main fault, None if unchecked), a note."""

    name: str
    cells: Sequence[tuple[Image.Image | None, str | None]]
    note: str = ""


_NAME_WIDTH, _NOTE_WIDTH = 96, 150


def draw_strips(
    blocks: Sequence[tuple[str, Sequence[Strip]]], columns: Sequence[str], title: str = "", side: int = 84
) -> Image.Image:
    """For each prompt its strips, one below the other, so that what differs stands above one another.

    Frames have the colours of FAULT_COLOURS, whose key is at the foot; missing images stay empty.
    """
    step = side + 2 * _FRAME + GAP + 2
    body = max(720, _NAME_WIDTH + len(columns) * step + _NOTE_WIDTH)
    seen = {kind for _, strips in blocks for strip in strips for _, kind in strip.cells if kind}
    block_heights = [_BAND + len(strips) * step + _GUTTER for _, strips in blocks]
    height = 2 * _MARGIN + (30 if title else 0) + _BAND + sum(block_heights) + (26 if seen else 0)
    sheet = Image.new("RGB", (body + 2 * _MARGIN, height), PAPER)
    draw, top = ImageDraw.Draw(sheet), _MARGIN
    if title:
        draw.text((_MARGIN, top), _shorten(draw, title, body, 17), _INK, _font(17))
        top += 30
    lefts = [_MARGIN + _NAME_WIDTH + column * step for column in range(len(columns))]
    for left, label in zip(lefts, columns, strict=True):
        draw.text((left, top), _shorten(draw, label, side, 13), _MUTED, _font(13))
    top += _BAND
    for (prompt, strips), block_height in zip(blocks, block_heights, strict=True):
        draw.text((_MARGIN, top), _shorten(draw, prompt, body, 14), _INK, _font(14))
        for index, strip in enumerate(strips):
            _draw_strip(sheet, draw, strip, lefts, top + _BAND + index * step, side)
        top += block_height
    _draw_key(draw, top, [kind for kind in FAULT_COLOURS if kind in seen])
    return sheet


def _draw_strip(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, strip: Strip, lefts: Sequence[int], top: int, side: int
) -> None:
    draw.text((_MARGIN, top + side // 2 - 8), _shorten(draw, strip.name, _NAME_WIDTH - 8, 13), _INK, _font(13))
    for left, (image, kind) in zip(lefts, strip.cells, strict=True):
        box = (left, top, left + side + 2 * _FRAME - 1, top + side + 2 * _FRAME - 1)
        if image is None:
            draw.rectangle(box, outline=_LINE)
            continue
        draw.rectangle(box, fill=FAULT_COLOURS[kind] if kind else _LINE)
        sheet.paste(side_by_side([image], side), (left + _FRAME, top + _FRAME))
    right = lefts[-1] + side + 2 * _FRAME + 14
    for line, text in enumerate(strip.note.splitlines()):
        draw.text((right, top + side // 2 - 18 + 18 * line), text, _INK, _font(13))


def _draw_key(draw: ImageDraw.ImageDraw, top: int, kinds: Sequence[str]) -> None:
    left = _MARGIN
    for kind in kinds:
        draw.rectangle((left, top + 3, left + 12, top + 15), fill=FAULT_COLOURS[kind])
        words = kind if kind == RIGHT else f"wrong: {kind}"
        draw.text((left + 18, top), words, _MUTED, _font(13))
        left += 34 + int(draw.textlength(words, _font(13)))


def _draw_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    cell: tuple[Sequence[Image.Image], str | None] | None,
    side: int,
) -> None:
    if cell is None:
        draw.rectangle(box, outline=_LINE)
        return
    images, outcome = cell
    if outcome:
        draw.rectangle(box, fill=OUTCOMES[outcome][1])
    sheet.paste(side_by_side(images, side), (box[0] + _FRAME, box[1] + _FRAME))


def _draw_map(draw: ImageDraw.ImageDraw, top: int, num_columns: int, outcomes: Mapping[tuple[int, int], str]) -> None:
    """A small square for each comparison, and the key of their colours beside them."""
    draw.text((_MARGIN, top), "who is correct", _MUTED, _font(13))
    for (row, column), outcome in outcomes.items():
        left, upper = _MARGIN + column * _DOT, top + 24 + row * _DOT
        draw.rectangle((left, upper, left + 18, upper + 18), fill=OUTCOMES[outcome][1])
    left = _MARGIN + num_columns * _DOT + 24
    for words, colour in OUTCOMES.values():
        draw.rectangle((left, top + 3, left + 12, top + 15), fill=colour)
        draw.text((left + 18, top), words, _MUTED, _font(13))
        left += 34 + int(draw.textlength(words, _font(13)))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shorten(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """The text, cut with an ellipsis if it is wider than `width` pixels."""
    whole = " ".join(text.split())
    shown = whole[: width // 2]  # no text has letters of under two pixels on average
    while shown and draw.textlength(shown + "..." * (shown != whole), _font(size)) > width:
        shown = shown[:-1]
    return shown + "..." * (shown != whole)
