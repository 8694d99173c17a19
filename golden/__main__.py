"""`python -m golden render` paints a prompt from standard and from golden noise and writes both pictures.

Heavy modules are imported where they are used, so that `--help` answers at once.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ArgumentParser, InvalidInput, MissingWeights, run_command

if TYPE_CHECKING:
    from PIL import Image

    from .compare import CompareRequest, Comparison, Model
    from .models import ModelSpec

FILES = {"standard": "standard.png", "npnet": "golden.png", "side_by_side": "side_by_side.png"}
"""What `render` writes: arm -> file."""


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m golden", description="Golden noise for diffusion models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    render = commands.add_parser(
        "render",
        help="paint a prompt from standard and from golden noise",
        description="Writes standard.png, golden.png and side_by_side.png. Each holds all settings, from which "
        "--from-image renders the same again. What is not given is the model's own, or the picture's.",
        epilog="Other commands: python -m golden.shapes, python -m golden.judges.",
    )
    render.add_argument("--prompt", help="what the pictures should show")
    render.add_argument("--seed", type=int, help="of the source noise, 0 or more; 0 if not given")
    render.add_argument(
        "--model", help="a name, a diffusers folder or a hub id, +LORA.safetensors, +CONTROLNET; shapes if not given"
    )
    render.add_argument("--npnet", metavar="FILE", help="NPNet weights, or the name of published ones")
    render.add_argument("--steps", type=int, help="number of steps")
    render.add_argument("--guidance", type=float, help="guidance scale, from 1")
    render.add_argument("--sampler", help="ddim, dpm, euler, ...")
    render.add_argument("--strength", type=float, help="of golden noise: 0 is the source noise, 1 NPNet's own")
    render.add_argument("--height", type=int, help="of the pictures, in pixels")
    render.add_argument("--width", type=int, help="of the pictures, in pixels")
    render.add_argument("--control", type=Path, metavar="PICTURE", help="what a ControlNet is shown")
    render.add_argument("--from-image", type=Path, metavar="PNG", help="take the settings of a picture of golden's")
    render.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, cuda:1, mps")
    render.add_argument(
        "--memory",
        metavar="MODE",
        default="auto",
        help="high, low (for cards of 8 to 12 GB: parts come to the device one by one, arms are painted in turn), or "
        "auto: high where it fits",
    )
    render.add_argument("--out", type=Path, default=Path("outputs/render"), help="folder to write to")
    render.add_argument("--overwrite", action="store_true", help="write over pictures that are there already")
    return parser


def render(arguments: Namespace) -> int:
    """Plan, refuse what cannot be done before anything is loaded, render, write."""
    from .compare import load_model
    from .files import sha256
    from .npnet import find_npnet
    from .pipelines import is_spared
    from .settings import to_dict

    made = read_picture(arguments.from_image) if arguments.from_image else {}
    spec, request = plan(arguments, made)
    paths = plan_files(arguments.out, arguments.overwrite)
    file = find_npnet(find_npnet_name(arguments, spec))
    network = {"file": file.name, "sha256": sha256(file) if file.is_file() else None}
    check_npnet(arguments, made, network)
    name = arguments.model or spec.name
    model = load_model(name, npnet=file, device=arguments.device, memory=arguments.memory)
    comparison = run(request, model)
    machine = {
        "device": arguments.device,
        "dtype": str(model.pipeline.dtype).removeprefix("torch."),
        "memory": "low" if is_spared(model.pipeline) else "high",
    }
    images = draw(comparison, spec, settings=to_dict(request, spec), npnet=network, **machine)
    write(images, paths)
    report(comparison, paths)
    return 0


# --- what to render ---------------------------------------------------------------------------------------------------


def read_picture(path: Path) -> dict[str, Any]:
    """How a picture says that it was made. Raises: InvalidInput if it cannot be read or says nothing."""
    from .settings import read_file, read_png

    made = read_png(read_file(path))
    if not isinstance(made["settings"], dict):
        raise InvalidInput("The settings inside the PNG cannot be read.")
    return made


def read_control(path: Path | None, stored: dict[str, Any]) -> "Image.Image | None":
    """What a ControlNet is shown. Raises: InvalidInput if it is not what a picture's settings say it was shown."""
    from . import settings

    control = settings.read_control(settings.read_file(path)) if path else None
    recorded = stored.get("control")
    if recorded is not None and (control is None or settings.hash_picture(control) != recorded):
        raise InvalidInput(f"The picture was steered by a picture of SHA-256 {str(recorded)[:12]}...: give --control.")
    return control


def plan(arguments: Namespace, made: dict[str, Any]) -> "tuple[ModelSpec, CompareRequest]":
    """The model and the request: what the command line says, else what the picture says, else the model's own.

    Raises: InvalidInput for what is not allowed. A picture may name a model of golden's own; any other the user names,
    since a picture that somebody sent must not choose what is loaded or fetched.
    """
    from .compare import check_control, validate
    from .models import MODELS, find_model
    from .settings import NAMES, default_request

    stored = made.get("settings", {})
    name = arguments.model or stored.get("model", "shapes")
    if not arguments.model and (not isinstance(name, str) or name not in MODELS):
        raise InvalidInput(f"The picture is of the model {str(name)[:80]!r}: name it yourself, with --model.")
    spec = find_model(name)
    given = {
        "prompt": arguments.prompt,
        "seed": arguments.seed,
        "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "sampler": arguments.sampler,
        "strength": arguments.strength,
        "height": arguments.height,
        "width": arguments.width,
    }
    values = {key: stored[key] for key in NAMES if key in stored}
    values |= {key: value for key, value in given.items() if value is not None}
    values["control"] = read_control(arguments.control, stored)
    if "prompt" not in values:
        raise InvalidInput("Give --prompt, or --from-image with a picture that golden made.")
    request = validate(default_request(spec, **values), spec)
    check_control(request.control, spec)
    return spec, request


def plan_files(folder: Path, overwrite: bool) -> dict[str, Path]:
    """Arm -> file to write. Raises: InvalidInput if one is there already, or the folder cannot be made."""
    paths = {arm: folder / name for arm, name in FILES.items()}
    there = next((path for path in paths.values() if path.exists()), None)
    if there and not overwrite:
        raise InvalidInput(f"{there} is there already: give another --out, or --overwrite.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror or error}.") from None
    return paths


def find_npnet_name(arguments: Namespace, spec: "ModelSpec") -> str:
    """Raises: MissingWeights if neither the user nor the model names an NPNet."""
    name = arguments.npnet or spec.npnet
    if not name:
        raise MissingWeights(f"There is no NPNet for {spec.name!r}: give a file or a name with --npnet.")
    return name


def check_npnet(arguments: Namespace, made: dict[str, Any], network: dict[str, Any]) -> None:
    """Raises: InvalidInput if a picture was made with another NPNet than the one that would be taken now."""
    recorded = made.get("npnet")
    if arguments.npnet or not isinstance(recorded, dict) or recorded.get("sha256") == network["sha256"]:
        return
    raise InvalidInput(
        f"The picture was made with another NPNet ({str(recorded.get('file'))[:80]}, SHA-256 "
        f"{str(recorded.get('sha256'))[:12]}...): give its file with --npnet."
    )


# --- render and write -------------------------------------------------------------------------------------------------


def run(request: "CompareRequest", model: "Model") -> "Comparison":
    """A comparison with a progress bar, where somebody watches."""
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
    """Both pictures and a side-by-side, each with all settings."""
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
    """Say what was written, and what the checker of the shapes world thinks of it."""
    for arm, path in paths.items():
        verdict = comparison.verdicts.get(arm)
        print(f"{path}: {verdict}" if verdict else path)
    print(f"NPNet took {1000 * comparison.npnet_seconds:.0f} ms of {comparison.total_seconds:.1f} s")


def main(argv: Sequence[str] | None = None) -> int:
    return render(make_parser().parse_args(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    run_command(main)
