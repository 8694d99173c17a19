"""Make the files of tests/reference anew, from the recipe in its README.md, and compare them with the stored ones."""

import argparse
import json
import math
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from diffusers.models.normalization import AdaGroupNorm
from rebuild import rebuild
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PARITY = Path(__file__).resolve().parent
STORED = PARITY.parent / "reference"
OLD_TIMM = ("0.6.13", "0.9.2")


# --- NPNet, written from the recipe and from nothing of golden --------------------------------------------------------


class SingularReference(nn.Module):
    """Singular values from singular vectors: (B, 4, 128, 128) -> (B, 4, 128, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp1 = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 256))
        self.mlp2 = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 256))
        self.mlp3 = nn.Sequential(nn.Linear(256, 256))
        self.attention = timm.models.vision_transformer.Attention(256)
        self.mlp4 = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))

    def forward(self, noise: Tensor) -> Tensor:
        top, bottom = torch.cat([noise[:, 0], noise[:, 1]], -1), torch.cat([noise[:, 2], noise[:, 3]], -1)
        u, s, vh = torch.linalg.svd(torch.cat([top, bottom], -2))
        rows = self.mlp1(u.transpose(1, 2)) + self.mlp2(vh) + self.mlp3(s)[:, None]
        matrix = u @ torch.diag_embed(self.mlp4(self.attention(rows).mean(1)) + s) @ vh
        (first, second), (third, fourth) = (half.chunk(2, -1) for half in matrix.chunk(2, -2))
        return torch.stack([first, second, third, fourth], 1)


class ResidualReference(nn.Module):
    """A Swin between two convolutions, its features read as if their first axis were the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.downconv = nn.Conv2d(4, 3, 1)
        self.swin = timm.create_model("swin_tiny_patch4_window7_224")
        self.upconv = nn.Conv2d(7, 4, 1)

    def forward(self, noise: Tensor) -> Tensor:
        features = self.swin.forward_features(self.downconv(F.interpolate(noise, (224, 224))))
        return self.upconv(F.interpolate(features, (128, 128)))


def compute_npnet(meta: dict[str, str]) -> dict[str, Tensor]:
    """The branches and their sum, of the inputs that the metadata names."""
    width, batch, alpha, beta = int(meta["dim"]), int(meta["batch"]), float(meta["alpha"]), float(meta["beta"])
    parts = {
        "unet_svd": SingularReference(),
        "unet_embedding": ResidualReference(),
        "embeeding": AdaGroupNorm(width * 77, 4, 1, eps=1e-6),
    }
    for prefix, part in parts.items():
        keyed = {f"{prefix}.{key}": value for key, value in part.state_dict().items()}
        part.load_state_dict({key.removeprefix(f"{prefix}."): value for key, value in rebuild(keyed).items()})
        part.eval()
    generator = torch.Generator().manual_seed(int(meta["seed"]))
    noise = torch.randn(batch, 4, 128, 128, generator=generator)
    prompt_embeds = torch.randn(batch, 77, width, generator=generator)
    with torch.no_grad():
        text = parts["embeeding"](noise, prompt_embeds.reshape(batch, -1))
        residual, singular = parts["unet_embedding"](noise + text), parts["unet_svd"](noise)
    golden = singular + (2 / (1 + math.exp(-alpha)) - 1) * text + beta * residual
    return {"text_embedding": text, "residual": residual, "singular": singular, "golden": golden}


def make_npnet(out: Path) -> None:
    for path in sorted((STORED / "npnet").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        save_file(compute_npnet(meta), out / "npnet" / path.name, meta)
        compare(path, out / "npnet" / path.name)


# --- what runs in environments of its own -----------------------------------------------------------------------------


def make_judges(out: Path) -> None:
    """The original packages, in the environment that tests/parity/compare_judges.py makes."""
    from compare_judges import DEFAULT_ENVIRONMENT, make_environment  # imports golden, which the rest does without

    python = make_environment(DEFAULT_ENVIRONMENT)
    subprocess.run([str(python), str(PARITY / "ask_originals.py"), str(out / "judges")], check=True)
    for path in sorted((STORED / "judges").glob("*_small.safetensors")):
        compare(path, out / "judges" / path.name)
    for path in sorted((STORED / "judges").glob("*_keys.json")):
        compare_keys(path, out / "judges" / path.name)


def make_swin_keys(out: Path) -> None:
    program = (
        "import json, timm; state = timm.create_model('swin_tiny_patch4_window7_224').state_dict(); "
        "print(json.dumps({key: list(value.shape) for key, value in state.items()}))"
    )
    for path in sorted((STORED / "npnet").glob("swin_keys_timm_*.json")):
        version = path.stem.removeprefix("swin_keys_timm_")
        python = Path(sys.executable)
        if version in OLD_TIMM:
            environment = out / f"timm-{version}"
            venv.create(environment, with_pip=True)
            python = environment / "bin" / "python"
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"timm=={version}"], check=True)
        printed = subprocess.run([str(python), "-c", program], check=True, capture_output=True, text=True).stdout
        (out / "npnet" / path.name).write_text(printed)
        compare_keys(path, out / "npnet" / path.name)


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(stored: Path, made: Path) -> None:
    expected, got = load_file(stored), load_file(made)
    for key, value in expected.items():
        difference = (value.double() - got[key].double()).abs().max().item() if key in got else math.nan
        print(f"{stored.name:38} {key:16} {difference:.1e}", flush=True)


def compare_keys(stored: Path, made: Path) -> None:
    equal = json.loads(stored.read_text()) == json.loads(made.read_text())
    print(f"{stored.name:38} {'equal' if equal else 'DIFFERENT'}", flush=True)


COMMANDS: dict[str, Callable[[Path], None]] = {"npnet": make_npnet, "judges": make_judges, "swin-keys": make_swin_keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=COMMANDS, help="which files to make")
    parser.add_argument("--out", type=Path, required=True, help="folder for the new files")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    for folder in ("npnet", "judges"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    COMMANDS[arguments.what](out)


if __name__ == "__main__":
    main()
