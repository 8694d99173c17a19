"""Train an NPNet on collected pairs: source noise and prompt in, target noise out.

    python train/train_npnet.py runs/pairs --out runs/npnet
    python train/train_npnet.py runs/pairs --out runs/npnet --filter improved --num-epochs 60

Writes npnet.safetensors (the exponential moving average), log.jsonl and a checkpoint to --out; killed and started
again, it goes on from the checkpoint. Validation is on pairs of prompts that training does not see, beside the
identity baseline (golden noise = source noise).
"""

import json
import math
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden.compare import load_model
from golden.errors import ArgumentParser, InvalidInput, run_command
from golden.files import atomic_path, write_bytes
from golden.judges import JUDGES
from golden.npnet import NPNet, NPNetConfig, SwinConfig, load_npnet, save_npnet
from golden.pipelines import encode_prompts
from golden.shapes import CATEGORIES, parse_caption
from train.pairs import read_manifest, read_shards, stack_shards


def is_best(rows: pd.DataFrame) -> pd.Series:
    """Whether a row's target is the best of its source's, where they differ; equally good ones are all kept."""
    scores = rows.groupby("index")["target_score"]
    best = scores.transform("max")
    return (rows["target_score"] == best) & (best > scores.transform("min"))


# name -> which rows of a data set are trained on. Source: section 3.2 of the paper keeps pairs that a judge says got
# better; the scores are those of the exact checker of the shapes world.
FILTERS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "all": lambda rows: pd.Series(True, rows.index),
    "improved": lambda rows: rows["target_score"] > rows["source_score"],
    "not_worse": lambda rows: rows["target_score"] >= rows["source_score"],
    "right": lambda rows: rows["target_right"],
    "best": is_best,
}


def find_filter(name: str, columns: Sequence[str], margin: float = 0.0) -> Callable[[pd.DataFrame], pd.Series]:
    """A filter of FILTERS, or of recorded judges: one's name, several joined by "+" (all must agree), or "vote" (most).

    A judge keeps a pair whose target beats its source by more than `margin` of its units.
    Source: section 3.2 of the paper (HPSv2, margin 0) and its Tables 8 and 9 (other judges, other margins).
    Raises: InvalidInput listing what there is.
    """
    recorded = [column.removeprefix("target_") for column in columns if column.removeprefix("target_") in JUDGES]
    if name in FILTERS:
        return FILTERS[name]
    names = recorded if name == "vote" else name.split("+")
    if not names or not set(names) <= set(recorded):
        have = ", ".join([*FILTERS, *recorded, *(["vote"] if recorded else [])])
        raise InvalidInput(f"Unknown filter {name[:60]!r}: choose one of {have}; judges can be joined by '+'.")

    def keep(rows: pd.DataFrame) -> pd.Series:
        better = pd.DataFrame({judge: rows[f"target_{judge}"] > rows[f"source_{judge}"] + margin for judge in names})
        return better.mean(axis=1) > 0.5 if name == "vote" else better.all(axis=1)

    return keep


VALIDATION_SHARE = 0.05


@dataclass(frozen=True)
class Settings:
    """What decides the weights, beside the pairs. Source: the paper trains with AdamW, 1e-4, batch 64, 30 epochs."""

    filter: str = "right"
    margin: float = 0.0
    targets: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    num_epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    ema_decay: float = 0.998
    seed: int = 0
    attention: bool = True
    singular: bool = True
    residual: bool = True
    text: bool = True
    text_map_size: int = 8
    side_by_side: bool = True
    image_channels: int = 16
    layout_rank: int = 256
    swin_width: int = 48
    swin_depth: int = 2
    drop_path_rate: float = 0.1


@dataclass(frozen=True)
class Pairs:
    """Everything that training needs of a data set, in memory: noises (n, C, h, w), and each row's prompt by index."""

    source: Tensor
    target: Tensor
    prompt_index: Tensor
    prompt_embeds: Tensor

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(source, prompt embeddings, target) of some rows: each sample is conditioned on its own prompt."""
        return self.source[index], self.prompt_embeds[self.prompt_index[index]], self.target[index]


def load_pairs(
    folder: Path, filter_name: str, targets: Sequence[str] = (), margin: float = 0.0, kinds: Sequence[str] = ()
) -> tuple[Pairs, Tensor, Tensor]:
    """A data set and the indices of its training and validation rows; validation prompts are not trained on.

    `targets` keeps those kinds of target alone, of a data set with several; none given keeps all. `kinds` are the
    categories of caption whose target noise is learnt; for captions of other categories the source noise is the label,
    so that NPNet leaves alone what it is not known to help.
    """
    manifest = read_manifest(folder)
    if unknown := set(targets) - set(manifest["settings"].get("targets", ())):
        raise InvalidInput(f"{folder} has no target {min(unknown)!r}: it has {manifest['settings'].get('targets')}.")
    pairs = stack_shards(list(read_shards(folder)))
    pipeline = load_model(manifest["settings"]["model"]).pipeline
    prompts = list(dict.fromkeys(pairs.rows["prompt"]))
    embeds = torch.cat(
        [encode_prompts(pipeline, prompts[i : i + 256])["prompt_embeds"] for i in range(0, len(prompts), 256)]
    )
    position = {prompt: i for i, prompt in enumerate(prompts)}
    prompt_index = torch.tensor([position[prompt] for prompt in pairs.rows["prompt"]])
    if kinds:
        category = {prompt: parse_caption(prompt).category for prompt in prompts}
        left_alone = ~pairs.rows["prompt"].map(category).isin(kinds).to_numpy()
        pairs.target_noise[left_alone] = pairs.source_noise[left_alone]
    kept = find_filter(filter_name, [*pairs.rows.columns], margin)(pairs.rows).to_numpy()
    if targets:
        kept = kept & pairs.rows["target"].isin(targets).to_numpy()
    held_out = np.array(
        [zlib.crc32(prompt.encode()) % 1000 < 1000 * VALIDATION_SHARE for prompt in pairs.rows["prompt"]]
    )
    if not (kept & ~held_out).any():
        raise InvalidInput(f"The filter {filter_name!r} keeps none of the {len(kept)} pairs in {folder}.")
    train_rows, validation_rows = (torch.from_numpy(np.flatnonzero(kept & side)) for side in (~held_out, held_out))
    return Pairs(pairs.source_noise, pairs.target_noise, prompt_index, embeds.float()), train_rows, validation_rows


def make_npnet(settings: Settings, pairs: Pairs) -> NPNet:
    """An untrained NPNet for the data's latents and embeddings: published architecture at 128x128, small below."""
    _, channels, height, width = pairs.source.shape
    _, num_tokens, embedding_dim = pairs.prompt_embeds.shape
    small = SwinConfig(
        image_size=height,
        patch_size=1,
        embed_dim=settings.swin_width,
        depths=(settings.swin_depth,),
        num_heads=(settings.swin_width // 16,),
        window_size=8,
        drop_path_rate=settings.drop_path_rate,
        misread_features=False,
    )
    config = NPNetConfig(
        channels=channels,
        height=height,
        width=width,
        num_tokens=num_tokens,
        embedding_dim=embedding_dim,
        use_singular=settings.singular,
        use_residual=settings.residual,
        use_text=settings.text,
        attention=settings.attention,
        canonical_signs=True,
        text_map_size=settings.text_map_size,
        side_by_side=settings.side_by_side,
        image_channels=settings.image_channels,
        layout_rank=settings.layout_rank,
        swin=small if height < 64 else SwinConfig(),
        svd_output_hidden=1024 if height >= 64 else 128,
    )
    return NPNet(config)


@torch.inference_mode()
def mean_squared_error(predict: Callable[[Tensor, Tensor], Tensor], pairs: Pairs, rows: Tensor) -> float:
    """Mean squared error against the target noise over some rows; NaN if there are none."""
    if not len(rows):
        return math.nan
    total = 0.0
    for index in rows.split(256):
        source, embeds, target = pairs.rows(index)
        total += (predict(source, embeds) - target).square().mean().item() * len(index)
    return total / len(rows)


def train(
    settings: Settings, pairs: Pairs, train_rows: Tensor, validation_rows: Tensor, out: Path, start: NPNet | None
) -> NPNet:
    """Train, or go on from out/checkpoint.pt. Returns the moving average, in eval mode."""
    torch.manual_seed(settings.seed)
    network = start or make_npnet(settings, pairs)
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    num_steps = settings.num_epochs * math.ceil(len(train_rows) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=num_steps + 1, pct_start=0.05, cycle_momentum=False
    )
    state: dict[str, Any] = {"network": network, "ema": ema, "optimizer": optimizer, "schedule": schedule}
    first_epoch = resume(out / "checkpoint.pt", state)
    identity = mean_squared_error(lambda source, _: source, pairs, validation_rows)
    bar = tqdm(range(first_epoch, settings.num_epochs), "epochs", initial=first_epoch, total=settings.num_epochs)
    for epoch in bar:
        # Order and dropped paths are functions of (seed, epoch), so that a resumed run equals an unbroken one.
        torch.manual_seed(settings.seed * 100_003 + epoch)
        network.train()
        losses = []
        for index in train_rows[torch.randperm(len(train_rows))].split(settings.batch_size):
            source, embeds, target = pairs.rows(index)
            loss = nn.functional.mse_loss(network(source, embeds), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            ema.update_parameters(network)
            losses.append(loss.item())
        ema.eval()
        row = {
            "epoch": epoch + 1,
            "train": float(np.mean(losses)),
            "validation": mean_squared_error(ema.module, pairs, validation_rows),
            "identity": identity,
        }
        with open(out / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        bar.set_postfix(validation=f"{row['validation']:.5f}", identity=f"{identity:.5f}")
        with atomic_path(out / "checkpoint.pt") as temporary:
            torch.save({"epoch": epoch + 1} | {name: part.state_dict() for name, part in state.items()}, temporary)
    averaged = ema.module.eval()
    assert isinstance(averaged, NPNet)
    return averaged


def resume(path: Path, state: dict) -> int:
    """Load a checkpoint and answer how many epochs it has behind it; 0 if there is none."""
    if not path.exists():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return saved["epoch"]


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    defaults = Settings()
    parser.add_argument("pairs", type=Path, help="folder made by train/collect_pairs.py")
    parser.add_argument("--out", type=Path, default=Path("runs/npnet"))
    parser.add_argument("--start", type=Path, help="NPNet file to fine-tune (default: train from nothing)")
    parser.add_argument(
        "--filter", default=defaults.filter, help=f"which pairs are trained on: {', '.join(FILTERS)}, judges, or vote"
    )
    parser.add_argument("--margin", type=float, default=defaults.margin, help="by how much a judge must be for a pair")
    parser.add_argument("--targets", nargs="+", default=(), help="of a data set with several targets, these alone")
    parser.add_argument(
        "--kinds", nargs="+", choices=CATEGORIES, default=(), help="change the noise for these kinds of caption alone"
    )
    parser.add_argument("--num-epochs", type=int, default=defaults.num_epochs)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--weight-decay", type=float, default=defaults.weight_decay)
    parser.add_argument("--ema-decay", type=float, default=defaults.ema_decay)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    for branch in ("attention", "singular", "residual", "text"):
        parser.add_argument(f"--no-{branch}", dest=branch, action="store_false", help=f"ablation: without {branch}")
    parser.add_argument("--text-map-size", type=int, default=defaults.text_map_size, help="1 is the published form")
    parser.add_argument(
        "--summed", dest="side_by_side", action="store_false", help="the published form: Swin sees noise plus text"
    )
    parser.add_argument("--image-channels", type=int, default=defaults.image_channels, help="3 is the published form")
    parser.add_argument("--layout-rank", type=int, default=defaults.layout_rank, help="0 is the published form")
    parser.add_argument("--swin-width", type=int, default=defaults.swin_width, help="small Swin: a multiple of 16")
    parser.add_argument("--swin-depth", type=int, default=defaults.swin_depth, help="small Swin: layers")
    parser.add_argument("--drop-path-rate", type=float, default=defaults.drop_path_rate, help="small Swin, in training")
    arguments = parser.parse_args()
    arguments.targets, arguments.kinds = tuple(arguments.targets), tuple(arguments.kinds)
    settings = Settings(**{name: getattr(arguments, name) for name in asdict(defaults)})
    arguments.out.mkdir(parents=True, exist_ok=True)
    pairs, train_rows, validation_rows = load_pairs(
        arguments.pairs, settings.filter, settings.targets, settings.margin, settings.kinds
    )
    print(f"{len(train_rows)} pairs to train on, {len(validation_rows)} to validate on, of {len(pairs.source)}")
    start = load_npnet(arguments.start).requires_grad_(True) if arguments.start else None
    network = train(settings, pairs, train_rows, validation_rows, arguments.out, start)
    last = (arguments.out / "log.jsonl").read_text().splitlines()[-1]
    manifest = read_manifest(arguments.pairs)
    about = {
        "settings": asdict(settings),
        "figures": json.loads(last),
        "num_pairs": len(train_rows),
        "pairs": manifest["settings"],
    }
    save_npnet(arguments.out / "npnet.safetensors", network, {"training": json.dumps(about)})
    write_bytes(arguments.out / "settings.json", json.dumps(about, indent=2).encode())
    print(last)


if __name__ == "__main__":
    run_command(main)
