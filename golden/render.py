"""`golden render` renders prompts from standard and from golden noise and writes the images.

Heavy modules are imported where they are used, so that `--help` answers at once.
"""

import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ArgumentParser, InvalidInput, MissingWeights
from .flags import add_flags, flag, read_flags

if TYPE_CHECKING:
    from PIL import Image

    from .compare import Comparison
    from .model import Model
    from .models import ModelSpec
    from .request import CompareRequest

FILES = {"standard": "standard.png", "npnet": "golden.png", "side_by_side": "side_by_side.png"}
"""What `render` writes of one prompt and seed: arm -> file."""
MAX_IMAGES = 10_000  # prompts times seeds
MAX_SLUG = 40  # characters


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
    seeds: tuple[str, ...] | None = flag(
        None, "several seeds, as a list and as ranges with both ends: 0..7, or 1 5 20..29", metavar="SEED"
    )
    prompts: Path | None = flag(None, "text file with one prompt per line", metavar="FILE")
    out: Path = flag(Path("outputs/render"), "folder to write to")
    overwrite: bool = flag(False, "overwrite images that exist")


def make_parser(prog: str) -> ArgumentParser:
    from .request import CompareRequest

    parser = ArgumentParser(
        prog=prog,
        description="Writes standard.png, golden.png and side_by_side.png. Each contains all settings, from which "
        "--from-image renders the same image again. Options left out take the model's, or the image's, values. With "
        "--seeds or --prompts the files are named golden-PROMPT-SEED-ARM.png.",
    )
    add_flags(parser, CompareRequest, skip=("arms", "control"), optional=True)
    add_flags(parser, RenderOptions)
    return parser


def render(arguments: Namespace) -> int:
    """Plan, refuse what cannot be done before anything is loaded, render, write."""
    from .files import sha256
    from .model import check_npnet_name, load_model
    from .npnet import find_npnet
    from .pipelines import is_spared
    from .settings import to_dict

    options = read_flags(RenderOptions, arguments)
    made = read_made(options.from_image) if options.from_image else {}
    spec, requests = plan(arguments, options, made)
    paths = plan_files(requests, options)
    name = find_npnet_name(options, spec)
    check_npnet_name(spec, name)
    file = find_npnet(name)
    network = {"file": file.name, "sha256": sha256(file) if file.is_file() else None}
    check_npnet(options, made, network)
    model = load_model(options.model or spec.name, npnet=file, device=options.device, memory=options.memory)
    machine = {
        "device": str(model.pipeline._execution_device),
        "dtype": str(model.pipeline.dtype).removeprefix("torch."),
        "memory": "low" if is_spared(model.pipeline) else "high",
    }
    for request, own_paths in zip(requests, paths, strict=True):
        comparison = run(request, model)
        images = draw(comparison, spec, settings=to_dict(request, spec), npnet=network, **machine)
        write(images, own_paths)
        report(comparison, own_paths)
    return 0


# --- what to render ---------------------------------------------------------------------------------------------------


def read_made(path: Path) -> dict[str, Any]:
    """What an image records of how it was made. Raises: InvalidInput if it cannot be read or records nothing."""
    from .settings import read_file, read_png

    data = read_file(path)
    try:
        made = read_png(data)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None
    if not isinstance(made["settings"], dict):
        raise InvalidInput(f"{path}: The settings inside the PNG cannot be read.")
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


def plan(
    arguments: Namespace, options: RenderOptions, made: dict[str, Any]
) -> "tuple[ModelSpec, list[CompareRequest]]":
    """The model and a request for each prompt and seed, all of them valid, before any image is rendered.

    Values are those of the command line, else of the image, else the model's defaults.

    Raises: InvalidInput for what is not allowed, in a file of prompts with the line's number. An image may name a model
    of golden's own; any other the user must name, since an image that somebody sent must not choose what is loaded or
    fetched.
    """
    from .models import MODELS, find_model
    from .request import check_control, validate
    from .settings import NAMES, default_request

    if options.prompts and arguments.prompt is not None:
        raise InvalidInput("Pass either --prompt or --prompts.")
    if options.seeds and arguments.seed is not None:
        raise InvalidInput("Pass either --seed or --seeds.")
    stored = made.get("settings", {})
    name = options.model or stored.get("model", "shapes")
    if not options.model and (not isinstance(name, str) or name not in MODELS):
        raise InvalidInput(f"The image was made with the model {str(name)[:80]!r}: pass it yourself, with --model.")
    spec = find_model(name)
    names = [name for name in NAMES if name != "arms"]  # it writes a standard and a golden image
    values = {key: stored[key] for key in names if key in stored}
    values |= {key: value for key in names if (value := getattr(arguments, key)) is not None}
    values["control"] = read_control(options.control, stored)
    prompts = read_prompts(options.prompts) if options.prompts else {"": values.get("prompt")}
    if None in prompts.values():
        raise InvalidInput("Pass --prompt or --prompts, or --from-image with an image made by golden.")
    seeds = parse_seeds(options.seeds) if options.seeds else [None]
    if len(prompts) * len(seeds) > MAX_IMAGES:
        raise InvalidInput(f"{len(prompts)} prompts with {len(seeds)} seeds each are more than {MAX_IMAGES:,} images.")
    requests = []
    for place, prompt in prompts.items():
        try:
            request = validate(default_request(spec, **(values | {"prompt": prompt})), spec)
            check_control(request.control, spec)
            requests += [request if seed is None else replace(request, seed=seed) for seed in seeds]
        except InvalidInput as error:
            raise InvalidInput(f"{place}{error}") from None
    return spec, requests


def read_prompts(path: Path) -> dict[str, str]:
    """Where it is ("FILE, line 3: ") -> prompt, blank lines left out. Raises: InvalidInput if there are none."""
    from .files import read_prompt_lines

    return {f"{path}, line {number}: ": line for number, line in read_prompt_lines(path).items()}


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """Seeds from numbers and ranges with both ends: ("1", "4..6") is [1, 4, 5, 6]. Raises: InvalidInput."""
    from .checks import check_seed, shown

    seeds: list[int] = []
    for text in filter(None, ",".join(texts).split(",")):
        ends = re.fullmatch(r"(\d{1,10})(?:\.\.(\d{1,10}))?", text)
        if not ends:
            raise InvalidInput(f"Seeds are numbers and ranges such as 0..7, got {shown(text)}.")
        first, last = check_seed(int(ends[1])), check_seed(int(ends[2] or ends[1]))
        if not 0 <= last - first < MAX_IMAGES:
            raise InvalidInput(f"A range of seeds goes up, and has at most {MAX_IMAGES:,}: got {text}.")
        seeds += range(first, last + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InvalidInput(f"Give each seed once, and one at least: got {', '.join(texts)[:80]!r}.")
    return seeds


def plan_files(requests: "Sequence[CompareRequest]", options: RenderOptions) -> list[dict[str, Path]]:
    """For each request, arm -> file to write.

    Raises: InvalidInput if one exists, or the folder cannot be made.
    """
    if options.seeds or options.prompts:
        slugs = make_slugs([request.prompt for request in requests])
        names = [
            {arm: f"golden-{slugs[request.prompt]}-{request.seed}-{arm}.png" for arm in FILES} for request in requests
        ]
    else:
        names = [FILES]
    paths = [{arm: options.out / name for arm, name in each.items()} for each in names]
    there = next((path for each in paths for path in each.values() if path.exists()), None)
    if there and not options.overwrite:
        raise InvalidInput(f"{there} exists: pass another --out, or --overwrite.")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{options.out} cannot be written: {error.strerror or error}.") from None
    return paths


def make_slugs(prompts: Sequence[str]) -> dict[str, str]:
    """Prompt -> what stands for it in names of files, another for each prompt."""
    slugs: dict[str, str] = {}
    for prompt in dict.fromkeys(prompts):
        slug = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:MAX_SLUG].strip("-") or "prompt"
        number, taken = 1, set(slugs.values())
        while (unique := slug if number == 1 else f"{slug}_{number}") in taken:
            number += 1
        slugs[prompt] = unique
    return slugs


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


def main(argv: Sequence[str] | None = None, prog: str = "golden render") -> int:
    return render(make_parser(prog).parse_args(argv))
