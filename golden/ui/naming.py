"""Names of files that people download: golden-PROMPT-SEED-ARM.png."""

import json
import re
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from ..drawing import to_png
from ..request import CompareRequest
from ..settings import PNG_KEY

MAX_PROMPT_BYTES = 120  # of UTF-8: file systems take names of 255


def name_image(request: CompareRequest, arm: str) -> str:
    """The name under which the image of an arm is downloaded."""
    return write_name(request.prompt, request.seed, arm)


def write_name(prompt: str, seed: int, arm: str) -> str:
    """golden-PROMPT-SEED-ARM.png, of letters, digits and hyphens in any script, so that every system takes it."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    words = words.encode()[:MAX_PROMPT_BYTES].decode(errors="ignore").rstrip("-")
    return f"golden-{words or 'image'}-{seed}-{arm}.png"


class NamedImage(gr.Image):
    """An image that is downloaded under the name that its own record of how it was made gives it."""

    is_template = True  # for gradio: drawn as any image

    def postprocess(self, value: Any) -> Any:
        if name := read_name(value):  # the server names the file, whatever the page wants
            value = save_bytes_to_cache(to_png(value), name, self.GRADIO_CACHE)
        return super().postprocess(value)


def read_name(image: Any) -> str | None:
    """The name of an image that `settings.label_images` labelled; None for any other."""
    text = image.info.get(PNG_KEY) if isinstance(image, Image.Image) else None
    if not isinstance(text, str):
        return None
    made = json.loads(text)  # our own: images from outside are never shown by a NamedImage
    return write_name(made["settings"]["prompt"], made["settings"]["seed"], made["arm"])
