"""The NPNets that a run trains for itself, from a folder of pairs, by train/train_npnet.py."""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from eval.runs import find_worker
from golden.errors import GoldenError, InvalidInput
from golden.judges import JUDGES
from golden.models import ModelSpec
from golden.npnet import NPNet, find_npnet, load_npnet
from train.pairs import finished_shards, read_manifest, read_rows, read_shard, shard_paths, write_manifest, write_shard

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Training:
    """How a network of a run comes about: `options` of train_npnet.py on all pairs, or on the first `num_pairs`.

    `fine_tunes` starts from the model's own NPNet; `file` is a finished network, and nothing is trained; the scales
    multiply what was learnt, and networks that differ in them alone are trained once.
    """

    options: tuple[str, ...] = ()
    num_pairs: int | None = None
    fine_tunes: bool = False
    file: str = ""
    alpha_scale: float = 1.0
    beta_scale: float = 1.0

    @property
    def folder(self) -> str:
        """A name for what is trained, the same for the same training."""
        number = f"{self.num_pairs} pairs" if self.num_pairs else ""
        parts = ["fine-tuned" if self.fine_tunes else "", number, *self.options]
        return re.sub(r"[^\w.+]+", "-", " ".join(filter(None, parts))).strip("-") or "npnet"


@dataclass(frozen=True)
class PairsFolder:
    """A folder of pairs: its kinds of target, the judges that scored it, how many sources it has, and its hash."""

    folder: Path
    targets: tuple[str, ...]
    judges: tuple[str, ...]
    num_sources: int
    sha256: str


def open_pairs(folder: Path, spec: ModelSpec) -> PairsFolder:
    """Look at a folder of pairs. Raises: InvalidInput if it is none, is not judged, or is of another model."""
    settings = read_manifest(folder)["settings"]
    shards = finished_shards(folder)
    if not shards:
        raise InvalidInput(f"There are no pairs in {folder}: collect some with train/collect_pairs.py.")
    if settings["model"] != spec.name:
        raise InvalidInput(f"The pairs in {folder} are of the model {settings['model']!r}, not of {spec.name!r}.")
    rows = read_rows(folder)
    if "target_score" not in rows and not settings.get("judges"):
        raise InvalidInput(f"The pairs in {folder} are not judged: collect them without --unjudged.")
    hashes = "".join(shard_paths(folder, index)[2].read_text() for index in shards)
    return PairsFolder(
        folder,
        tuple(rows["target"].unique()) if "target" in rows else (),
        tuple(settings.get("judges", ())),
        rows["index"].nunique(),
        hashlib.sha256(hashes.encode()).hexdigest(),
    )


def check_networks(networks: Mapping[str, Training], pairs: PairsFolder | None, spec: ModelSpec) -> None:
    """Say what is missing before anything is trained. Raises: GoldenError in one sentence."""
    for name, training in networks.items():
        if training.file:
            load_npnet(training.file)
            continue
        if pairs is None:
            raise InvalidInput(
                "This suite trains networks: give --pairs, a folder made by train/collect_pairs.py --judges all."
            )
        if training.fine_tunes and not spec.npnet:
            raise InvalidInput(f"There is no NPNet of {spec.name!r} to fine-tune for {name!r}.")
        asked = training.options[training.options.index("--filter") + 1] if "--filter" in training.options else ""
        if (asked in JUDGES and asked not in pairs.judges) or (asked == "vote" and not pairs.judges):
            raise InvalidInput(
                f"The pairs in {pairs.folder} have no scores of {asked}: collect them with --judges all."
            )


def take_pairs(source: Path, num_pairs: int, folder: Path) -> Path:
    """A folder with the first `num_pairs` sources of another and all their targets."""
    write_manifest(folder, read_manifest(source))
    left = num_pairs
    for index in finished_shards(source):
        if left <= 0:
            break
        shard = read_shard(source, index)
        kept = shard.rows["index"].isin(shard.rows["index"].unique()[:left]).to_numpy()
        left -= shard.rows["index"][kept].nunique()
        mask = torch.tensor(kept)
        write_shard(
            folder,
            index,
            replace(
                shard,
                source_noise=shard.source_noise[mask],
                target_noise=shard.target_noise[mask],
                rows=shard.rows[kept],
            ),
        )
    return folder


def train_network(training: Training, pairs: PairsFolder, spec: ModelSpec, folder: Path) -> Path:
    """Train one network into a folder, or find it there. Returns the weight file; a kill loses one epoch at most.

    Of several workers of a torchrun the first trains, and the others wait.
    Raises: GoldenError with the last line that the training wrote if it fails.
    """
    weights = folder / "npnet.safetensors"
    while find_worker()[0] > 0 and not weights.is_file():
        time.sleep(1)
    if weights.is_file():
        return weights
    chosen = (
        pairs.folder if training.num_pairs is None else take_pairs(pairs.folder, training.num_pairs, folder / "pairs")
    )
    command = [sys.executable, "train/train_npnet.py", str(chosen.resolve()), "--out", str(folder.resolve())]
    start = ["--start", str(find_npnet(spec.npnet).resolve())] if training.fine_tunes and spec.npnet else []
    # Not as one of torchrun's workers, of which a training would wait for the others.
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    ran = subprocess.run(
        [*command, *training.options, *start],
        cwd=ROOT,
        env=alone,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if ran.returncode or not weights.is_file():
        lines = ran.stderr.strip().splitlines() or [f"it ended with code {ran.returncode}"]
        raise GoldenError(f"Training {folder.name!r} failed: {lines[-1]}")
    return weights


def train_networks(
    networks: Mapping[str, Training], pairs: PairsFolder | None, spec: ModelSpec, folder: Path
) -> dict[str, NPNet]:
    """All networks of a suite by name, in eval mode, each training once below `folder`."""
    made: dict[str, NPNet] = {}
    for name, training in networks.items():
        if training.file:
            made[name] = load_npnet(training.file)
            continue
        assert pairs is not None, "check_networks was not asked"
        print(f"training {name}: {' '.join(training.options) or 'defaults'}", file=sys.stderr)
        network = load_npnet(train_network(training, pairs, spec, folder / training.folder))
        with torch.no_grad():
            # golden = singular + (2 sigmoid(alpha) - 1) text + beta residual: it is the factor that is scaled.
            network.alpha.copy_(torch.logit((training.alpha_scale * (2 * network.alpha.sigmoid() - 1) + 1) / 2))
            network.beta.mul_(training.beta_scale)
        made[name] = network
    return made


def describe_training(networks: Mapping[str, Training], pairs: PairsFolder | None) -> dict | None:
    """What decides the networks of a run, for its manifest; None where none is trained."""
    if not networks:
        return None
    return {
        "pairs": pairs.sha256 if pairs else None,
        "networks": {
            name: {
                "folder": training.folder,
                "file": training.file,
                "scales": [training.alpha_scale, training.beta_scale],
            }
            for name, training in networks.items()
        },
    }
