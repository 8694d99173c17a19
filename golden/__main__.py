"""`python -m golden render` renders a prompt from standard and from golden noise and writes both images.

Heavy modules are imported where they are used, so that `--help` answers at once.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ArgumentParser, InvalidInput, MissingWeights, run_command
from .flags import add_flags, flag, read_flags

if TYPE_CHECKING:
    from PIL import Image

    from .compare import Comparison
    from .model import Model
    from .models import ModelSpec
    from .request import CompareRequest

FILES = {"standard": "standard.png", "npnet": "golden.png", "side_by_side": "side_by_side.png"}
"""What `render` writes: arm -> file."""


@dataclass(frozen=True)
class RenderOptions:
    """What `render` takes beside the fields of CompareRequest."""

    model: str | None = flag(
        None, "a name, a diffusers folder or a hub id, +LORA.safetensors, +CONTROLNET (default: shapes)"
    )
    npnet: str | None = flag(None, "NPNet weights, or the name of published ones", metavar="FILE")
    control: Path | None = flag(None, "control image for a ControlNet", metavar="IMAGE")
    from_image: Path | None = flag(None, "take the settings from an image made by golden", metavar="PNG")
    device: str = flag("auto", "where the model runs: auto, cpu, cuda, cuda:1, mps")
    memory: str = flag(
        "auto",
        "high; low (for cards of 8 to 12 GB: parts move to the device one by one, arms are rendered in turn); or auto: "
        "high if it fits",
        metavar="MODE",
    )
    out: Path = flag(Path("outputs/render"), "folder to write to")
    overwrite: bool = flag(False, "overwrite images that exist")


def make_parser() -> ArgumentParser:
    from .request import CompareRequest

    parser = ArgumentParser(prog="python -m golden", description="Golden noise for diffusion models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    render = commands.add_parser(
        "render",
        help="render a prompt from standard and from golden noise",
        description="Writes standard.png, golden.png and side_by_side.png. Each contains all settings, from which "
        "--from-image renders the same image again. Options left out take the model's, or the image's, values.",
        epilog="Other commands: python -m golden.shapes, python -m golden.judges.",
    )
    add_flags(render, CompareRequest, skip=("arms", "control"), optional=True)
    add_flags(render, RenderOptions)
    return parser


def render(arguments: Namespace) -> int:
    """Plan, refuse what cannot be done before anything is loaded, render, write."""
    from .files import sha256
    from .model import load_model
    from .npnet import find_npnet
    from .pipelines import is_spared
    from .settings import to_dict

    options = read_flags(RenderOptions, arguments)
    made = read_made(options.from_image) if options.from_image else {}
    spec, request = plan(arguments, options, made)
    paths = plan_files(options.out, options.overwrite)
    file = find_npnet(find_npnet_name(options, spec))
    network = {"file": file.name, "sha256": sha256(file) if file.is_file() else None}
    check_npnet(options, made, network)
    model = load_model(options.model or spec.name, npnet=file, device=options.device, memory=options.memory)
    comparison = run(request, model)
    machine = {
        "device": str(model.pipeline._execution_device),
        "dtype": str(model.pipeline.dtype).removeprefix("torch."),
        "memory": "low" if is_spared(model.pipeline) else "high",
    }
    images = draw(comparison, spec, settings=to_dict(request, spec), npnet=network, **machine)
    write(images, paths)
    report(comparison, paths)
    return 0


# --- what to render ---------------------------------------------------------------------------------------------------


def read_made(path: Path) -> dict[str, Any]:
    """What an image records of how it was made. Raises: InvalidInput if it cannot be read or records nothing."""
    from .settings import read_file, read_png

    made = read_png(read_file(path))
    if not isinstance(made["settings"], dict):
        raise InvalidInput("The settings inside the PNG cannot be read.")
    return made


def read_control(path: Path | None, stored: dict[str, Any]) -> "Image.Image | None":
    """The control image. Raises: InvalidInput if it is not the one that an image's settings record."""
    from . import settings

    control = settings.read_control(settings.read_file(path)) if path else None
    recorded = stored.get("control")
    if recorded is not None and (control is None or settings.hash_image(control) != recorded):
        raise InvalidInput(
            f"The image was made with a control image of SHA-256 {str(recorded)[:12]}...: pass --control."
        )
    return control


def plan(arguments: Namespace, options: RenderOptions, made: dict[str, Any]) -> "tuple[ModelSpec, CompareRequest]":
    """The model and the request: from the command line, else from the image, else the model's defaults.

    Raises: InvalidInput for what is not allowed. An image may name a model of golden's own; any other the user must
    name, since an image that somebody sent must not choose what is loaded or fetched.
    """
    from .models import MODELS, find_model
    from .request import check_control, validate
    from .settings import NAMES, default_request

    stored = made.get("settings", {})
    name = options.model or stored.get("model", "shapes")
    if not options.model and (not isinstance(name, str) or name not in MODELS):
        raise InvalidInput(f"The image was made with the model {str(name)[:80]!r}: pass it yourself, with --model.")
    spec = find_model(name)
    values = {key: stored[key] for key in NAMES if key in stored}
    values |= {key: value for key in NAMES if (value := getattr(arguments, key)) is not None}
    values["control"] = read_control(options.control, stored)
    if "prompt" not in values:
        raise InvalidInput("Pass --prompt, or --from-image with an image made by golden.")
    request = validate(default_request(spec, **values), spec)
    check_control(request.control, spec)
    return spec, request


def plan_files(folder: Path, overwrite: bool) -> dict[str, Path]:
    """Arm -> file to write. Raises: InvalidInput if one exists, or the folder cannot be made."""
    paths = {arm: folder / name for arm, name in FILES.items()}
    there = next((path for path in paths.values() if path.exists()), None)
    if there and not overwrite:
        raise InvalidInput(f"{there} exists: pass another --out, or --overwrite.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror or error}.") from None
    return paths


def find_npnet_name(options: RenderOptions, spec: "ModelSpec") -> str:
    """Raises: MissingWeights if neither the user nor the model names an NPNet."""
    name = options.npnet or spec.npnet
    if not name:
        raise MissingWeights(f"There is no NPNet for {spec.name!r}: pass a file or a name with --npnet.")
    return name


def check_npnet(options: RenderOptions, made: dict[str, Any], network: dict[str, Any]) -> None:
    """Raises: InvalidInput if an image was made with another NPNet than the one that would be used now."""
    recorded = made.get("npnet")
    if options.npnet or not isinstance(recorded, dict) or recorded.get("sha256") == network["sha256"]:
        return
    raise InvalidInput(
        f"The image was made with another NPNet ({str(recorded.get('file'))[:80]}, SHA-256 "
        f"{str(recorded.get('sha256'))[:12]}...): pass its file with --npnet."
    )


# --- render and write -------------------------------------------------------------------------------------------------


def run(request: "CompareRequest", model: "Model") -> "Comparison":
    """A comparison, with a progress bar on a terminal."""
    from tqdm import tqdm

    from .compare import Comparison, Progress, compare

    with tqdm(total=0, unit="step", disable=None, leave=False) as bar:
        for event in compare(request, model):
            if isinstance(event, Progress):
                bar.total = event.num_steps
                bar.update(event.step - bar.n)
            elif isinstance(event, Comparison):
                return event
    raise AssertionError("a comparison ends with its outcome")


def draw(comparison: "Comparison", spec: "ModelSpec", **more: Any) -> "dict[str, Image.Image]":
    """Both images and a side-by-side, each with all settings."""
    from .drawing import side_by_side
    from .settings import label_image, label_images

    both = side_by_side(list(comparison.images.values()), max(next(iter(comparison.images.values())).size))
    sheet = label_image(both, "side_by_side", comparison, spec, **more)
    return label_images(comparison, spec, **more) | {"side_by_side": sheet}


def write(images: "dict[str, Image.Image]", paths: dict[str, Path]) -> None:
    """Write PNG files, each whole or not at all. Raises: InvalidInput if the folder refuses them."""
    from .drawing import to_png
    from .files import write_bytes

    try:
        for arm, path in paths.items():
            write_bytes(path, to_png(images[arm]))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}.") from error


def report(comparison: "Comparison", paths: dict[str, Path]) -> None:
    """Print what was written, with the verdicts of the model's checker if it has one."""
    for arm, path in paths.items():
        verdict = comparison.verdicts.get(arm)
        print(f"{path}: {verdict}" if verdict else path)
    print(f"NPNet took {1000 * comparison.npnet_seconds:.0f} ms of {comparison.total_seconds:.1f} s")


def main(argv: Sequence[str] | None = None) -> int:
    return render(make_parser().parse_args(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    run_command(main)
