"""Where a result comes from: machine, commit, package versions and weight hashes, saved beside every output."""

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .files import sha256

if TYPE_CHECKING:
    from .models import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "diffusers", "transformers", "timm", "numpy", "scipy", "pandas", "pyarrow")


def describe_run(device: str | torch.device = "cpu") -> dict[str, Any]:
    """One start of a command, for its manifest, report or log: when, on what and with which code it ran."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"time": now, **machine(device), "versions": versions(), "commit": commit()}


def machine(device: str | torch.device = "cpu") -> dict[str, str]:
    """The device by name, the platform and the Python version."""
    kind = torch.device(device).type
    names = {
        "cuda": lambda: torch.cuda.get_device_name(device),
        "cpu": lambda: f"CPU, {torch.get_num_threads()} threads",
    }
    return {
        "device": names[kind]() if kind in names else kind.upper(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """The versions of the packages that decide results; those that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of this clone, with "+" after it if tracked files differ from it; None outside a clone."""
    if not (ROOT / ".git").exists():  # an installed package may lie in a virtual environment of another clone
        return None

    def git(*arguments: str) -> str:
        call = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return call.stdout.strip()

    try:
        head, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def hash_model(spec: "ModelSpec") -> dict[str, str]:
    """SHA-256 of every weight file of a local model; the repository and revision of one from the hub."""
    folder = Path(spec.repo)
    if not folder.is_dir():
        return {"repo": spec.repo, "revision": spec.revision or "main"}
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*.safetensors"))}


def find_worker() -> tuple[int, int]:
    """(rank, number of workers) as torchrun sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
