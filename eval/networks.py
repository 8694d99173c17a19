"""The NPNets that a run needs beside the model's own: finished files, or trained by the run from a folder of pairs."""

import io
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch

from golden.errors import GoldenError, InvalidInput
from golden.files import sha256
from golden.judges import JUDGES
from golden.models import ModelSpec
from golden.npnet import NPNet, find_npnet, load_npnet
from golden.provenance import find_worker
from train.pairs import (
    finished_shards,
    hash_shards,
    read_manifest,
    read_rows,
    read_shard,
    write_manifest,
    write_shard,
)
from train.settings import Architecture, TrainingSettings
from train.train_npnet import TrainingOptions, run_training


@dataclass(frozen=True)
class NetworkRecipe:
    """How a network of a run is made: trained under `training` on all pairs, or on the first `num_pairs`.

    `fine_tunes` starts from the model's own NPNet, whose architecture it keeps. `file` is a finished network, for which
    nothing is trained. The scales multiply what was learnt; networks that differ in them alone are trained once.
    """

    training: TrainingSettings = field(default_factory=TrainingSettings)
    architecture: Architecture = field(default_factory=Architecture)
    num_pairs: int | None = None
    fine_tunes: bool = False
    file: str = ""
    alpha_scale: float = 1.0
    beta_scale: float = 1.0

    def describe(self) -> str:
        """What differs from a training with defaults, for people; equal for equal trainings."""
        number = f"{self.num_pairs} pairs" if self.num_pairs else ""
        changes = [*_list_changes(self.training), *_list_changes(self.architecture)]
        return " ".join(filter(None, ["fine-tuned" if self.fine_tunes else "", number, *changes])) or "defaults"

    @property
    def folder(self) -> str:
        """The name of the folder that the network is trained in."""
        return re.sub(r"[^\w.+]+", "-", self.describe()).strip("-")


def _list_changes(settings: TrainingSettings | Architecture) -> list[str]:
    """The settings that differ from their defaults, as on the command line."""
    changes = []
    for entry in fields(settings):
        value, name = getattr(settings, entry.name), entry.name.replace("_", "-")
        if value == entry.default:
            continue
        if isinstance(value, bool):
            changes.append(name if value else f"no-{name}")
        else:
            changes.append(f"{name} {' '.join(value) if isinstance(value, tuple) else value}")
    return changes


@dataclass(frozen=True)
class PairsFolder:
    """A folder of pairs: its kinds of target, the judges that scored it, its number of sources, and its hash."""

    folder: Path
    targets: tuple[str, ...]
    judges: tuple[str, ...]
    num_sources: int
    sha256: str


def open_pairs(folder: Path, spec: ModelSpec) -> PairsFolder:
    """Inspect a folder of pairs. Raises: InvalidInput if it is not one, not judged, or of another model."""
    settings = read_manifest(folder)["settings"]
    shards = finished_shards(folder)
    if not shards:
        raise InvalidInput(f"There are no pairs in {folder}: collect some with train/collect_pairs.py.")
    if settings["model"] != spec.name:
        raise InvalidInput(f"The pairs in {folder} are of the model {settings['model']!r}, not of {spec.name!r}.")
    rows = read_rows(folder)
    if "target_score" not in rows and not settings.get("judges"):
        raise InvalidInput(f"The pairs in {folder} are not judged: collect them without --no-judged.")
    return PairsFolder(
        folder,
        tuple(rows["target"].unique()) if "target" in rows else (),
        tuple(settings.get("judges", ())),
        rows["index"].nunique(),
        hash_shards(folder, shards),
    )


def check_networks(networks: Mapping[str, NetworkRecipe], pairs: PairsFolder | None, spec: ModelSpec) -> None:
    """Report what is missing before anything is trained. Raises: GoldenError in one sentence."""
    for name, recipe in networks.items():
        if recipe.file:
            load_npnet(recipe.file)
            continue
        if pairs is None:
            raise InvalidInput(
                "This suite trains networks: give --pairs, a folder made by train/collect_pairs.py --judges all."
            )
        if recipe.fine_tunes and not spec.npnet:
            raise InvalidInput(f"There is no NPNet of {spec.name!r} to fine-tune for {name!r}.")
        for asked in (recipe.training.filter or "").split("+"):
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


@contextmanager
def _as_only_worker() -> Iterator[None]:
    """Hide torchrun's other workers, for which accelerate would wait: this one trains alone."""
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def train_network(
    recipe: NetworkRecipe, pairs: PairsFolder, spec: ModelSpec, folder: Path, device: str = "cpu"
) -> Path:
    """Train one network into a folder, unless it is there already. Returns the weight file.

    A kill loses one epoch at most. Of several workers of torchrun the first trains, and the others wait.
    Raises: GoldenError in one sentence if the training fails.
    """
    weights = folder / "npnet.safetensors"
    while find_worker()[0] > 0 and not weights.is_file():
        time.sleep(1)
    if weights.is_file():
        return weights
    data = pairs.folder if recipe.num_pairs is None else take_pairs(pairs.folder, recipe.num_pairs, folder / "pairs")
    settings = recipe.training
    if recipe.fine_tunes and spec.npnet:
        settings = replace(settings, start=str(find_npnet(spec.npnet).resolve()))
    options = TrainingOptions(data=data.resolve(), out=folder.resolve(), device=device)
    try:
        with _as_only_worker(), redirect_stdout(io.StringIO()):
            run_training(options, settings, recipe.architecture)
    except (GoldenError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise GoldenError(f"Training {folder.name!r} failed: {reason}") from error
    return weights


def prepare_networks(
    networks: Mapping[str, NetworkRecipe],
    pairs: PairsFolder | None,
    spec: ModelSpec,
    folder: Path,
    device: str = "cpu",
) -> dict[str, NPNet]:
    """All networks of a suite by name, in eval mode; each training runs once, in a folder of its own in `folder`.

    Raises: GoldenError in one sentence if a training fails, or if what was learnt cannot be scaled as the recipe says.
    """
    made: dict[str, NPNet] = {}
    for name, recipe in networks.items():
        if recipe.file:
            made[name] = load_npnet(recipe.file)
            continue
        assert pairs is not None, "check_networks was not called"
        print(f"training {name}: {recipe.describe()}", file=sys.stderr)
        network = load_npnet(train_network(recipe, pairs, spec, folder / recipe.folder, device))
        _scale_branches(name, network, recipe)
        made[name] = network
    return made


@torch.no_grad()
def _scale_branches(name: str, network: NPNet, recipe: NetworkRecipe) -> None:
    """Raises: GoldenError if alpha cannot express the weight of the text branch, which it keeps between -1 and 1."""
    # golden = singular + (2 sigmoid(alpha) - 1) text + beta residual: scale the factor, not alpha itself.
    learnt = 2 * network.alpha.sigmoid() - 1
    scaled = recipe.alpha_scale * learnt
    if scaled.abs().item() > 1:
        raise GoldenError(
            f"The network {name!r} cannot be made: the text branch has learnt the weight {learnt.item():.2f}, of which "
            f"{recipe.alpha_scale:g} times is {scaled.item():.2f}, and alpha allows weights from -1 to 1."
        )
    network.alpha.copy_(torch.logit((scaled + 1) / 2))
    network.beta.mul_(recipe.beta_scale)


def describe_networks(networks: Mapping[str, NetworkRecipe], pairs: PairsFolder | None) -> dict | None:
    """What decides the networks of a run, for its manifest; None if it has none of its own."""
    if not networks:
        return None
    return {
        "pairs": pairs.sha256 if pairs else None,
        "networks": {
            name: {
                "folder": recipe.folder,
                "file": sha256(find_npnet(recipe.file)) if recipe.file else "",
                "scales": [recipe.alpha_scale, recipe.beta_scale],
            }
            for name, recipe in networks.items()
        },
    }
