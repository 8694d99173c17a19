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

from .compare import CompareRequest, Comparison, validate
from .errors import InvalidInput
from .models import ModelSpec

NAMES = tuple(field.name for field in fields(CompareRequest) if field.name not in ("arms", "control"))
"""What a link and a settings file hold; the names of CompareRequest."""

PNG_KEY = "golden"
MAX_JSON_CHARS = 20_000
MAX_PICTURE_BYTES = 20 * 2**20
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
    """The settings with the model's name, ready for JSON; of a control picture the SHA-256 of its pixels."""
    control = {"control": hash_picture(request.control)} if request.control is not None else {}
    values = {name: getattr(request, name) for name in NAMES}
    return {"model": spec.name} | {name: value for name, value in values.items() if value is not None} | control


def to_json(request: CompareRequest, spec: ModelSpec) -> str:
    """The settings as JSON text that `from_json` reads."""
    return json.dumps(to_dict(request, spec), indent=2, ensure_ascii=False)


def from_json(text: Any, spec: ModelSpec) -> CompareRequest:
    """Settings from JSON text; what it does not say keeps the model's default.

    Raises: InvalidInput if it is no JSON object, of another model, or holds a value that is not allowed.
    """
    if not isinstance(text, str) or len(text) > MAX_JSON_CHARS:
        raise InvalidInput(f"Settings are JSON text of at most {MAX_JSON_CHARS} characters.")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput('The settings are not JSON: they look like {"prompt": "a red circle", "seed": 1}.') from None
    if not isinstance(settings, dict):
        raise InvalidInput('The settings are a JSON object: they look like {"prompt": "a red circle", "seed": 1}.')
    return _from_mapping(settings, spec)


def from_query(query: Mapping[str, str], spec: ModelSpec) -> CompareRequest | None:
    """Settings from a link's query; None if it names no prompt. Raises: InvalidInput for a value not allowed."""
    if "prompt" not in query:
        return None
    texts = ("prompt", "sampler", "model")
    return _from_mapping({k: v if k in texts else _number_in(v) for k, v in query.items()}, spec)


def _number_in(text: str) -> str | float:
    """A query's value as a number where it is one; the validator says whether a number belongs there."""
    try:
        return float(text)
    except ValueError:
        return text


def _from_mapping(settings: Mapping[str, Any], spec: ModelSpec) -> CompareRequest:
    model = settings.get("model", spec.name)
    if model != spec.name:
        raise InvalidInput(f"These settings are of the model {str(model)[:40]!r}, and this is {spec.name!r}.")
    known = {name: settings[name] for name in NAMES if name in settings}
    return validate(default_request(spec, **known), spec)


def default_request(spec: ModelSpec, **changes: Any) -> CompareRequest:
    """A request with the model's own number of steps, guidance scale and sampler, but for `changes`."""
    defaults: dict[str, Any] = {
        "prompt": "",
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "sampler": spec.sampler,
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
    """By arm, a copy of its picture that carries how it was made; saving it as PNG keeps that as text.

    `more` is whatever else belongs there, ready for JSON.
    """
    return {arm: label_image(image, arm, comparison, spec, **more) for arm, image in comparison.images.items()}


def label_image(image: Image.Image, arm: str, comparison: Comparison, spec: ModelSpec, **more: Any) -> Image.Image:
    """A copy of a picture that carries how it was made, under the name `arm`."""
    labelled = image.copy()
    made = describe(comparison, spec) | {
        "arm": arm,
        "repo": spec.repo if not spec.is_shapes else "embedded",
        "revision": spec.revision,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }
    labelled.info = {PNG_KEY: json.dumps(made | more, ensure_ascii=False)}
    return labelled


def from_png(data: Any, spec: ModelSpec) -> CompareRequest:
    """The settings inside a PNG that `label_images` labelled. The pixels are never decoded.

    Raises: InvalidInput if the bytes are no PNG, or hold no settings.
    """
    return from_json(json.dumps(read_png(data)["settings"]), spec)


def read_png(data: Any) -> dict[str, Any]:
    """All that a PNG says of how it was made: "settings" as anybody may have written them, and more.

    Raises: InvalidInput if the bytes are no PNG, or hold no settings.
    """
    _check_size_of(data, "a PNG file")
    try:
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            text = image.info.get(PNG_KEY)
    except _UNREADABLE:
        raise InvalidInput("The file is not a PNG that can be read.") from None
    if not isinstance(text, str):
        raise InvalidInput("The PNG holds no settings: only pictures that this app made have them.")
    try:
        made = json.loads(text)
        made["settings"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidInput("The settings inside the PNG cannot be read.") from None
    return made


def read_file(path: Path) -> bytes:
    """The bytes of a picture's file, none of one that is too large to be taken. Raises: InvalidInput."""
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_PICTURE_BYTES else b""
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from None


def _check_size_of(data: Any, what: str) -> None:
    if not isinstance(data, bytes) or not 0 < len(data) <= MAX_PICTURE_BYTES:
        raise InvalidInput(f"Give {what} of at most {MAX_PICTURE_BYTES // 2**20} MB.")


def read_control(data: Any) -> Image.Image:
    """The control picture, RGB, in the bytes of a PNG, JPEG or WebP file.

    Raises: InvalidInput if it is no such file, damaged, or of more than MAX_CONTROL_SIDE pixels along a side.
    """
    _check_size_of(data, "a PNG, JPEG or WebP file")
    try:
        with Image.open(BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
            size = image.size
            picture = image.convert("RGB") if max(size) <= MAX_CONTROL_SIDE else None
    except _UNREADABLE:
        raise InvalidInput("The control picture is not a PNG, JPEG or WebP file that can be read.") from None
    if picture is None:
        raise InvalidInput(f"A control picture has at most {MAX_CONTROL_SIDE} pixels along a side, got {max(size)}.")
    return picture


def hash_picture(picture: Image.Image) -> str:
    """The SHA-256 of a picture's pixels."""
    return hashlib.sha256(picture.tobytes()).hexdigest()
