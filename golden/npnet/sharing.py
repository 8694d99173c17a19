"""NPNets on the Hugging Face Hub: what NPNet's `from_pretrained` and `push_to_hub` read and write, and its card."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cards import UNKNOWN_LICENSE, last_name, part_of, read_record
from ..sharing import Shared

if TYPE_CHECKING:
    from .network import NPNet

TAGS = ["golden-noise", "npnet", "diffusers", "text-to-image"]
SUMMARY = (
    "An NPNet: a small network that turns random Gaussian noise and a prompt into golden noise, from which a "
    "text-to-image model makes a better image in the same number of steps. The model itself stays as it is."
)


class SharedNPNet(Shared):
    """The methods of NPNet that read and write repositories."""

    def write_weights(self: "NPNet", path: Path) -> None:  # type: ignore[misc]
        from .files import save_npnet

        save_npnet(path, self, self.metadata)

    @classmethod
    def read_weights(cls, path: Path, **options: Any) -> "NPNet":  # type: ignore[override]
        from .files import load_npnet

        return load_npnet(path, **options)

    def config_json(self: "NPNet") -> str:  # type: ignore[misc]
        from .config import config_to_json

        return json.dumps(json.loads(config_to_json(self.config)), indent=2)

    def card_parts(self: "NPNet", repo: str) -> dict[str, Any]:  # type: ignore[misc]
        training = read_record(self.metadata, "training")
        pairs = part_of(training, "pairs")
        spec = _find_spec(pairs.get("model"))
        embedded = spec is not None and spec.is_embedded
        metadata = {"tags": TAGS}
        if spec and not embedded:
            metadata["base_model"] = spec.repo
        return {
            "title": f"NPNet for {spec.title or spec.name}" if spec else "NPNet",
            "summary": SUMMARY,
            "usage": _usage(repo, spec.name if spec and embedded else None, spec.repo if spec else "MODEL"),
            "license": "apache-2.0" if embedded else UNKNOWN_LICENSE,
            "tables": {"Network": _network_rows(self)} | _training_tables(training, pairs),
            "metadata": metadata,
        }


def _find_spec(model: Any) -> Any:
    """The model of MODELS that pairs were collected with, or None."""
    from ..models import MODELS

    return MODELS.get(model) if isinstance(model, str) else None


def _usage(repo: str, embedded: str | None, model: str) -> str:
    if embedded:
        first = f'from golden import GoldenNoise, load_model\n\npipe = load_model("{embedded}").pipeline'
    else:
        first = (
            "from diffusers import DiffusionPipeline\nfrom golden import GoldenNoise\n\n"
            f'pipe = DiffusionPipeline.from_pretrained("{model}")'
        )
    return (
        f'{first}\ngolden = GoldenNoise.for_pipeline(pipe, npnet="{repo}")\n'
        "image = pipe(prompt, latents=golden(prompt, seed=7)).images[0]"
    )


def _network_rows(net: "NPNet") -> dict[str, Any]:
    config = net.config
    return {
        "latents": f"{config.channels} x {config.height} x {config.width}",
        "prompt embeddings": f"{config.num_tokens} x {config.embedding_dim}",
        "branches": ", ".join(net.branch_modules),
        "keeps the norm of the source noise": "yes" if config.keep_norm else "no",
        "gain of the change": f"{config.change_gain:.4g}",
        "parameters": f"{sum(weight.numel() for weight in net.parameters()) / 1e6:.2f} M",
    }


_DATA = ("model", "targets", "redenoise_guidance_scale", "inversion_guidance_scale", "num_inference_steps", "seed")
_SETTINGS = ("objective", "filter", "margin", "start", "num_epochs", "batch_size", "learning_rate", "schedule", "seed")
_FIGURES = {
    "train": "training loss",
    "validation": "validation loss",
    "identity": "validation loss of the source noise, unchanged",
    "step": "steps",
}


def _training_tables(training: dict[str, Any], pairs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Data, settings and last figures; only what the record has."""
    settings, figures = part_of(training, "settings"), part_of(training, "figures")
    data = {"pairs": training["num_pairs"]} if "num_pairs" in training else {}
    data |= {name: last_name(pairs[name]) for name in _DATA if pairs.get(name) is not None}
    tables = {
        "Data": data,
        "Training": {name: last_name(settings[name]) for name in _SETTINGS if settings.get(name) is not None},
        "Figures at its end": {
            label: f"{figures[name]:.4g}"
            for name, label in _FIGURES.items()
            if isinstance(figures.get(name), int | float)
        },
    }
    return {heading: {key.replace("_", " "): value for key, value in rows.items()} for heading, rows in tables.items()}
