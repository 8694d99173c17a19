"""Build the folder of a Hugging Face Space, and try it like the Space would: install, start, compare once.

    python assets/space/build.py runs/space                          # the embedded model on a free CPU
    python assets/space/build.py runs/space --model sdxl             # SDXL on ZeroGPU
    python assets/space/build.py runs/space --check --python python3.12

Push what it writes as it is: `hf upload OWNER/NAME runs/space --repo-type space`.
"""

import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import httpx
from gradio_client import Client

from golden.errors import ArgumentParser, GoldenError, InvalidInput, run_command
from golden.flags import add_flags, flag, read_flags
from golden.models import MODELS, ModelSpec, find_model
from golden.npnet import NPNETS

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PARTS = (
    *("app.py", "golden", "eval", "requirements.txt", "LICENSE"),
    *(f"assets/{name}" for name in ("app", "judges", "reports", "shapes", "shapes-flow")),
)
MAX_FILE_BYTES = 10 * 2**20  # the hub refuses files "larger than 10 MiB" without large-file storage
ENTRY = "space.py"
SDXL_WEIGHTS = (  # the hub takes no patterns here; the small files are downloaded at the start
    "text_encoder/model",
    "text_encoder_2/model",
    "unet/diffusion_pytorch_model",
    "vae/diffusion_pytorch_model",
)
START_SECONDS = 300


def build_space(out: Path, spec: ModelSpec) -> None:
    """Write the Space's folder: the project's own files, an entry that starts the app, and a README for the hub.

    Raises: InvalidInput if `out` exists and is not a Space's folder, or a file is too large for one.
    """
    if out.exists() and not (out / ENTRY).is_file() and any(out.iterdir()):
        raise InvalidInput(f"{out} contains other files: give a new folder, or one that this command made.")
    shutil.rmtree(out, ignore_errors=True)
    for part in PARTS:
        source, target = ROOT / part, out / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (out / ENTRY).write_text(write_entry(spec))
    (out / "README.md").write_text(write_readme(spec))
    with open(out / "requirements.txt", "a") as requirements:
        requirements.write("spaces\n")
    for path in out.rglob("*"):
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path} has {path.stat().st_size:,} bytes: a Space takes at most {MAX_FILE_BYTES:,}.")


def write_entry(spec: ModelSpec) -> str:
    """The file that the hub starts."""
    arguments = ["--model", spec.name, "--host", "0.0.0.0"] + ([] if spec.is_embedded else ["--device", "cuda"])
    return f'''"""What the Space starts: the app with the Space's settings, then those of the command line."""

import sys

from app import main

main({arguments} + sys.argv[1:])
'''


def write_readme(spec: ModelSpec) -> str:
    """The hub's front matter, with what to download before the first start, and a short description."""
    preload = "".join(f"  - {line}\n" for line in list_preloads(spec))
    filled = {
        "{sdk_version}": version("gradio"),
        "{entry}": ENTRY,
        "{hardware}": "cpu-basic" if spec.is_embedded else "zero-a10g",
        "{models}": "" if spec.is_embedded else f"models:\n  - {spec.repo}\n",
        "{preload}": f"preload_from_hub:\n{preload}" if preload else "",
        "{title}": spec.title,
    }
    text = (HERE / "README.md").read_text()
    for mark, words in filled.items():
        text = text.replace(mark, words)
    return text


def list_preloads(spec: ModelSpec) -> list[str]:
    """What the model needs from the hub: each repository with its files; nothing if it is in the folder."""
    if spec.is_embedded:
        return []
    ending = f".{spec.variant}.safetensors" if spec.variant else ".safetensors"
    weights = ",".join(name + ending for name in SDXL_WEIGHTS) if spec.family.name == "sdxl" else ""
    parts = [part.split("/") for part in (spec.parts.unet, *spec.parts.loras) if part]
    npnet = [NPNETS[spec.npnet].repos[0]] if spec.npnet in NPNETS else []
    return [
        f"{spec.repo} {weights}".strip(),
        *(" ".join(["/".join(part[:2]), "/".join(part[2:])]).strip() for part in parts),
        *npnet,
    ]


# --- the trial --------------------------------------------------------------------------------------------------------


def install_space(folder: Path, python: str) -> Path:
    """Install the folder's requirements in a new virtual environment beside it; returns its interpreter.

    Raises: GoldenError if that fails.
    """
    environment = folder.with_name(folder.name + "-venv")
    started = time.monotonic()
    run([python, "-m", "venv", "--clear", str(environment)])
    inside = environment / "bin" / "python"
    pinned = f"gradio=={version('gradio')}"  # as the front matter asks of the hub
    run([str(inside), "-m", "pip", "install", "--quiet", "-r", str(folder / "requirements.txt"), pinned])
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)
    return inside


def try_space(folder: Path, python: Path) -> None:
    """Start the folder's entry, and compare once. Raises: GoldenError if it does not answer."""
    started = time.monotonic()
    port = find_free_port()
    server = subprocess.Popen([str(python), ENTRY, "--port", str(port)], cwd=folder)
    try:
        client = wait_for_client(f"http://127.0.0.1:{port}", server)
        client.predict("a red circle", api_name="/compare")
        print(f"first comparison {time.monotonic() - started:.0f} s after the start", flush=True)
    finally:
        server.terminate()
        server.wait(30)


def wait_for_client(url: str, server: subprocess.Popen) -> Client:
    """A client of the server once it answers. Raises: GoldenError if it ends first, or takes too long."""
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            return Client(url, verbose=False, analytics_enabled=False)
        except (httpx.HTTPError, ValueError):  # not up yet
            time.sleep(0.5)
    raise GoldenError(f"The Space does not answer: {' '.join(map(str, server.args))}.")  # type: ignore[arg-type]


def run(command: list[str]) -> None:
    if subprocess.run(command).returncode:
        raise GoldenError(f"The command failed: {' '.join(command)}")


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class SpaceOptions:
    out: Path = flag(help="folder to write", positional=True)
    model: str = flag("shapes", f"one of {', '.join(MODELS)}; those that are not embedded need ZeroGPU")
    check: bool = flag(False, "install it in a new virtual environment and start it")
    python: str = flag(sys.executable, "interpreter of that environment")


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, SpaceOptions)
    options = read_flags(SpaceOptions, parser.parse_args())
    out, spec = options.out.resolve(), find_model(options.model)
    build_space(out, spec)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {spec.title}, {size / 1e6:.1f} MB")
    if options.check:
        try_space(out, install_space(out, options.python))


if __name__ == "__main__":
    run_command(main)
