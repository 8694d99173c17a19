"""The settings of a comparison as JSON, in a link, and inside PNG files, from where they can be opened again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image, UnidentifiedImageError

from .checks import shown
from .compare import Comparison
from .errors import InvalidInput
from .models import ModelSpec
from .request import CompareRequest, validate

NAMES = tuple(field.name for field in fields(CompareRequest) if field.name != "control")
"""What a link and a settings file hold: fields of CompareRequest."""
_ARMS = CompareRequest(prompt="").arms  # a link without arms is for these
_EXAMPLE = 'they look like {"prompt": "a red circle", "seed": 1}.'
_MOST_NAMED = 5  # unknown settings in one sentence
_ALSO_THERE = ("model", "control")  # what `to_dict` adds

PNG_KEY = "golden"
MAX_JSON_CHARS = 20_000
MAX_IMAGE_BYTES = 20 * 2**20
MAX_CONTROL_SIDE = 4096
_UNREADABLE = (  # all that Pillow raises for a file that is not what it says
    UnidentifiedImageError,
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def to_dict(request: CompareRequest, spec: ModelSpec) -> dict[str, Any]:
    """The settings with the model's name, ready for JSON; of a control image the SHA-256 of its pixels.

    Without arms they are for standard and golden noise.
    """
    control = {"control": hash_image(request.control)} if request.control is not None else {}
    values = {name: getattr(request, name) for name in NAMES}
    values["arms"] = list(request.arms) if request.arms != _ARMS else None
    return {"model": spec.name} | {name: value for name, value in values.items() if value is not None} | control


def to_json(request: CompareRequest, spec: ModelSpec) -> str:
    """The settings as JSON text that `from_json` reads."""
    return json.dumps(to_dict(request, spec), indent=2, ensure_ascii=False)


def from_json(text: Any, spec: ModelSpec) -> CompareRequest:
    """Settings from JSON text; names that it leaves out keep the model's defaults.

    Raises: InvalidInput if it is not a JSON object, is for another model, or has a name or value that is not allowed.
    """
    if not isinstance(text, str) or len(text) > MAX_JSON_CHARS:
        raise InvalidInput(f"Settings must be JSON text of at most {MAX_JSON_CHARS} characters.")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput(
            'The settings are not valid JSON: they look like {"prompt": "a red circle", "seed": 1}.'
        ) from None
    if not isinstance(settings, dict):
        raise InvalidInput(f"The settings must be a JSON object: {_EXAMPLE}")
    return from_dict(settings, spec)


def from_query(query: Mapping[str, str], spec: ModelSpec) -> CompareRequest | None:
    """Settings from a link's query; None if it has none.

    Names that begin with two underscores are the server's own (`__theme`). Raises: InvalidInput as `from_json`.
    """
    settings = {name: _parse_value(name, text) for name, text in query.items() if not name.startswith("__")}
    return from_dict(settings, spec) if settings else None


def _parse_value(name: str, text: str) -> Any:
    """A value of a link: text, arms between commas, or a number."""
    if name in ("prompt", "sampler", "model"):
        return text
    return text.split(",") if name == "arms" else _parse_number(text)


def _parse_number(text: str) -> str | float:
    """A query's value as a number if it is one; the validator knows whether a number belongs there."""
    try:
        return float(text)
    except ValueError:
        return text


def from_dict(settings: Mapping[str, Any], spec: ModelSpec) -> CompareRequest:
    """Settings by name, of which those left out keep the model's defaults. Raises: InvalidInput as `from_json`."""
    model = settings.get("model", spec.name)
    if model != spec.name:
        raise InvalidInput(f"These settings are for the model {str(model)[:40]!r}, and this is {spec.name!r}.")
    if unknown := [name for name in settings if name not in (*NAMES, *_ALSO_THERE)]:
        named = ", ".join(map(shown, unknown[:_MOST_NAMED])) + (" and others" if len(unknown) > _MOST_NAMED else "")
        plural = "s" if len(unknown) > 1 else ""
        raise InvalidInput(f"Unknown setting{plural} {named}: the settings are {', '.join(('model', *NAMES))}.")
    known = {name: settings[name] for name in NAMES if name in settings}
    return validate(default_request(spec, **known), spec)


def default_request(spec: ModelSpec, **changes: Any) -> CompareRequest:
    """A request with the model's default steps, guidance scale and sampler, but for `changes`."""
    defaults: dict[str, Any] = {
        "prompt": "",
        "num_inference_steps": spec.sampling.num_inference_steps,
        "guidance_scale": spec.sampling.guidance_scale,
        "sampler": spec.sampling.sampler,
    }
    return CompareRequest(**(defaults | changes))


def describe(comparison: Comparison, spec: ModelSpec) -> dict[str, Any]:
    """Settings, verdicts and times of a comparison, ready for JSON."""
    verdicts = {
        arm: {**asdict(verdict), "attributes": dict(verdict.attributes), "score": verdict.score}
        for arm, verdict in comparison.verdicts.items()
    }
    return {
        "settings": to_dict(comparison.request, spec),
        "verdicts": verdicts,
        "npnet_seconds": comparison.npnet_seconds,
        "total_seconds": comparison.total_seconds,
        "overhead": comparison.overhead,
    }


def label_images(comparison: Comparison, spec: ModelSpec, **more: Any) -> dict[str, Image.Image]:
    """By arm, a copy of its image that records how it was made; saving it as PNG keeps that as text.

    `more` is whatever else belongs there, ready for JSON.
    """
    return {arm: label_image(image, arm, comparison, spec, **more) for arm, image in comparison.images.items()}


def label_image(image: Image.Image, arm: str, comparison: Comparison, spec: ModelSpec, **more: Any) -> Image.Image:
    """A copy of an image that records how it was made, under the name `arm`."""
    labelled = image.copy()
    made = describe(comparison, spec) | {
        "arm": arm,
        "repo": "embedded" if spec.is_embedded else spec.repo,
        "revision": spec.revision,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }
    labelled.info = {PNG_KEY: json.dumps(made | more, ensure_ascii=False)}
    return labelled


def from_png(data: Any, spec: ModelSpec) -> CompareRequest:
    """The settings inside a PNG that `label_images` labelled. The pixels are never decoded.

    Raises: InvalidInput if the bytes are not a PNG, or hold no settings.
    """
    return from_json(json.dumps(read_png(data)["settings"]), spec)


def read_png(data: Any) -> dict[str, Any]:
    """What a PNG records of how it was made: "settings", as anybody may have written them, and more.

    Raises: InvalidInput if the bytes are not a PNG, or hold no settings.
    """
    _check_size_of(data, "a PNG file")
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            text = image.info.get(PNG_KEY)
    except _UNREADABLE:
        raise InvalidInput("The file is not a readable PNG.") from None
    if not isinstance(text, str):
        raise InvalidInput("The PNG contains no settings: only images made by golden do.")
    try:
        made = json.loads(text)
        made["settings"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidInput("The settings inside the PNG cannot be read.") from None
    return made


def read_file(path: Path) -> bytes:
    """The bytes of an image file, none of one that is too large. Raises: InvalidInput."""
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_IMAGE_BYTES else b""
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from None


def _check_size_of(data: Any, what: str) -> None:
    if not isinstance(data, bytes) or not 0 < len(data) <= MAX_IMAGE_BYTES:
        raise InvalidInput(f"Give {what} of at most {MAX_IMAGE_BYTES // 2**20} MB.")


def read_control(data: Any) -> Image.Image:
    """The control image, RGB, in the bytes of a PNG, JPEG or WebP file.

    Raises: InvalidInput if it is not such a file, damaged, or of more than MAX_CONTROL_SIDE pixels along a side.
    """
    _check_size_of(data, "a PNG, JPEG or WebP file")
    try:
        with Image.open(BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
            size = image.size
            control = image.convert("RGB") if max(size) <= MAX_CONTROL_SIDE else None
    except _UNREADABLE:
        raise InvalidInput("The control image is not a readable PNG, JPEG or WebP file.") from None
    if control is None:
        raise InvalidInput(f"A control image may have at most {MAX_CONTROL_SIDE} pixels along a side, got {max(size)}.")
    return control


def hash_image(image: Image.Image) -> str:
    """The SHA-256 of an image's pixels."""
    return hashlib.sha256(image.tobytes()).hexdigest()
