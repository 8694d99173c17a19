"""Images beside each other, small, and as the bytes of PNG and WebP files."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

PAPER = (246, 241, 230)
GAP = 2  # pixels


def to_png(image: Image.Image) -> bytes:
    """An image as the bytes of a PNG file, with the texts in its `info`."""
    texts = PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            texts.add_text(key, value)
    data = BytesIO()
    image.save(data, "PNG", pnginfo=texts)
    return data.getvalue()


def to_webp(image: Image.Image, **options: Any) -> bytes:
    """An image as the bytes of a WebP file; `options` are Pillow's, such as `quality`."""
    data = BytesIO()
    image.save(data, "WEBP", **options)
    return data.getvalue()


def shrink(image: Image.Image, side: int) -> Image.Image:
    """A copy at most `side` pixels high and wide; smaller images keep their size."""
    small = image.copy()
    small.thumbnail((side, side))
    return small


def side_by_side(images: Sequence[Image.Image], side: int) -> Image.Image:
    """Images in a row, each `side` pixels high and wide."""
    sheet = Image.new("RGB", (side * len(images) + GAP * (len(images) - 1), side), PAPER)
    for index, image in enumerate(images):
        fitted = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(fitted, (index * (side + GAP), 0))
    return sheet
