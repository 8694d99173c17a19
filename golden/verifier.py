"""The verifier: how good a finished image will be, seen from its latents at any step.

A latent reward model for any family of pipelines. It starts as a copy of the denoising network's own encoder, which
already knows the latents, the noise levels and the prompts, and adds a small head. It is trained from the recorded
verdicts or scores of a pair folder (train/train_verifier.py) and serves as a reward whose gradient reaches the noise,
and as a way to choose among noises without rendering them.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import BadWeights, MissingWeights
from .families import Embeddings, find_family
from .files import VERIFIER_KEY, load_weights, save_weights
from .flows import step_between
from .models import Sampling
from .noise import as_latents_of
from .pipelines import denoise, network_of

GRID = 4  # cells along each side into which features are pooled, so that the head can tell left from right


@dataclass(frozen=True)
class VerifierConfig:
    """Sizes of the head: `num_features` of the encoder's last map, `text_dim` of the prompt embeddings, `hidden`."""

    num_features: int
    text_dim: int
    hidden: int = 256


class Verifier(nn.Module):
    """Logits that the finished image will be right: (latents (B, C, h, w), timestep, embeddings) -> (B,).

    `encoder` is a copy of the pipeline's denoising network up to its middle.
    """

    def __init__(self, encoder: nn.Module, config: VerifierConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, str] = {}  # what the weight file says about itself
        self.encoder = encoder
        self.grid = nn.Linear(config.num_features * GRID * GRID, config.hidden)
        self.head = nn.Sequential(
            nn.LayerNorm(2 * config.num_features + config.hidden + config.text_dim),
            nn.Linear(2 * config.num_features + config.hidden + config.text_dim, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, 1),
        )

    def forward(
        self,
        pipeline: Any,
        latents: Float[Tensor, "batch channels height width"],
        timestep: int | float,
        embeddings: Embeddings,
    ) -> Float[Tensor, " batch"]:
        """Logits for latents at one timestep; `pipeline` prepares them as it would for its own network."""
        arguments, keywords = capture_network_inputs(pipeline, latents, timestep, embeddings)
        cell = find_family(pipeline).patch_size(pipeline)
        size = [side // cell for side in latents.shape[-2:]]
        return self.judge(self.encode(arguments, keywords, size), embeddings)

    def encode(
        self, arguments: tuple, keywords: dict[str, Any], size: Sequence[int]
    ) -> Float[Tensor, "batch features height width"]:
        """The encoder's last feature map for the inputs of the denoising network; a transformer's has `size`."""
        features: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            parts = output if isinstance(output, tuple) else (output,)
            features.append(parts[-1])
            raise _Captured

        handle = middle_of(self.encoder).register_forward_hook(keep)
        try:
            self.encoder(*_in_fp32(arguments), **_in_fp32(keywords))
        except _Captured:
            pass
        finally:
            handle.remove()
        return _as_map(features[0], size).float()

    def judge(self, features: Tensor, embeddings: Embeddings) -> Float[Tensor, " batch"]:
        grid = self.grid(nn.functional.adaptive_avg_pool2d(features, GRID).flatten(1))
        text = pool_text(embeddings).float()
        seen = torch.cat([features.mean((2, 3)), features.amax((2, 3)), grid, text], dim=1)
        return self.head(seen).squeeze(1)


class BorrowedVerifier(nn.Module):
    """A verifier with the encoder of another model, whose pipeline is `owner`: same autoencoder and text encoders.

    It gets the latents and the embeddings that its own model would have. Stable Diffusion 3's prompt embeddings begin
    with those of SDXL, and its pooled embeddings end with SDXL's.
    """

    def __init__(self, verifier: Verifier, owner: Any) -> None:
        super().__init__()
        self.verifier, self.owner = verifier, owner
        self.sizes = {name: value.shape for name, value in find_family(owner).encode(owner, [""]).items()}

    def forward(
        self,
        pipeline: Any,
        latents: Float[Tensor, "batch channels height width"],
        timestep: int | float,
        embeddings: Embeddings,
    ) -> Float[Tensor, " batch"]:
        """Logits for latents of `pipeline` at one of its timesteps."""
        latents, timestep = as_latents_of(self.owner, pipeline, latents, timestep)
        own = {name: self._cut(value, self.sizes[name]) for name, value in embeddings.items() if name in self.sizes}
        return self.verifier(self.owner, latents, timestep, own)

    def __deepcopy__(self, memo: dict[int, Any]) -> "BorrowedVerifier":
        return BorrowedVerifier(copy.deepcopy(self.verifier, memo), self.owner)  # the pipeline is not part of it

    def _cut(self, value: Tensor, size: Sequence[int]) -> Tensor:
        if value.ndim == 2:
            return value[:, -size[1] :]
        return value[:, : size[1], : size[2]]


def make_verifier(pipeline: Any, hidden: int = 256) -> Verifier:
    """An untrained verifier for a pipeline: its own encoder, and a head that knows nothing yet."""
    encoder = _truncate(copy.deepcopy(network_of(pipeline))).float()
    config = getattr(network_of(pipeline), "config", {})
    num_features = config["block_out_channels"][-1] if "block_out_channels" in config else _width_of(config)
    return Verifier(encoder, VerifierConfig(num_features, find_text_dim(pipeline), hidden))


def _width_of(config: Any) -> int:
    width = config.get("hidden_size") or config.get("dim")  # Hunyuan-DiT's name, Z-Image's, others'
    return int(width or config["num_attention_heads"] * config["attention_head_dim"])


def find_text_dim(pipeline: Any) -> int:
    """The width of what `pool_text` returns for a pipeline's prompts."""
    return pool_text(find_family(pipeline).encode(pipeline, [""])).shape[1]


def pool_text(embeddings: Embeddings) -> Float[Tensor, "batch dim"]:
    """One vector per prompt: the pooled embeddings if the pipeline has them, else the mean over tokens."""
    pooled = embeddings.get("pooled_prompt_embeds")
    return pooled if pooled is not None else embeddings["prompt_embeds"].mean(1)


# --- the denoising network's encoder ----------------------------------------------------------------------------------


class _Captured(Exception):
    """Ends a forward pass once what was wanted of it is there."""


def middle_of(network: nn.Module) -> nn.Module:
    """The module whose output is the encoder's: a UNet's mid block, or half way through a transformer's blocks."""
    if (middle := getattr(network, "mid_block", None)) is not None:
        return middle
    return _blocks_of(network)[-1]


def _blocks_of(network: nn.Module) -> nn.ModuleList:
    for name in ("transformer_blocks", "blocks", "layers"):
        if isinstance(blocks := getattr(network, name, None), nn.ModuleList):
            return blocks
    raise BadWeights(f"A verifier cannot read a {type(network).__name__}: it has neither a mid block nor blocks.")


def _truncate(network: nn.Module) -> nn.Module:
    """The network without what comes after its middle."""
    if hasattr(network, "mid_block"):
        network.up_blocks = nn.ModuleList()
        for name in ("conv_norm_out", "conv_out"):
            setattr(network, name, None)
        return network
    blocks = _blocks_of(network)
    del blocks[(len(blocks) + 1) // 2 :]
    if hasattr(network, "single_transformer_blocks"):  # FLUX's, after the others
        network.single_transformer_blocks = nn.ModuleList()
    return network


def _in_fp32(value: Any) -> Any:
    """Arguments of a network with their tensors in fp32, which is what the verifier computes in."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: _in_fp32(part) for name, part in value.items()}
    return type(value)(map(_in_fp32, value)) if isinstance(value, tuple | list) else value


def _as_map(features: Tensor, size: Sequence[int]) -> Tensor:
    """Features as a map (B, F, h, w); of tokens (B, N, F) the first h w are laid out, others are not of the image."""
    if features.ndim == 4:
        return features
    height, width = size
    return features[:, : height * width].transpose(1, 2).unflatten(2, (height, width))


def capture_network_inputs(
    pipeline: Any, latents: Tensor, timestep: int | float, embeddings: Embeddings
) -> tuple[tuple, dict[str, Any]]:
    """The arguments with which a pipeline calls its network for latents (B, C, h, w) at a timestep, without guidance.

    Every family conditions its network in its own way, and its pipeline knows how. Gradients flow to the latents if
    they are enabled.
    """
    captured: list[tuple[tuple, dict[str, Any]]] = []

    def keep(module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        captured.append((arguments, keywords))
        raise _Captured

    handle = network_of(pipeline).register_forward_pre_hook(keep, with_kwargs=True)
    if find_family(pipeline).is_flow:
        sigma = timestep / pipeline.scheduler.config.num_train_timesteps
        scheduler = step_between(pipeline.scheduler.config, (sigma, 0.0))
    else:
        scheduler = _single_step(pipeline.scheduler, timestep)
    positive = {name: value for name, value in embeddings.items() if not name.startswith("negative_")}
    sampling = Sampling(scheduler, 1, 1.0)
    try:
        with _silenced(pipeline):
            denoise(pipeline, latents, positive, [0] * len(latents), sampling, grad=torch.is_grad_enabled())
    except _Captured:
        pass
    finally:
        handle.remove()
    return captured[0]


def _single_step(scheduler: Any, timestep: int | float) -> Any:
    """A DDIM scheduler whose only step is at `timestep`: it leaves latents as they are before the network."""
    import diffusers

    class SingleStep(diffusers.DDIMScheduler):
        timesteps: Tensor

        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            self.timesteps = self.timesteps.new_tensor([timestep])

    return SingleStep(num_train_timesteps=scheduler.config.num_train_timesteps)


@contextmanager
def _silenced(pipeline: Any) -> Iterator[None]:
    """No progress bar for a step that is never taken."""
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipeline.set_progress_bar_config(**before)


def missing_verifier(name: str) -> MissingWeights:
    """The error of a model without a verifier, by the model's name."""
    return MissingWeights(f"There is no verifier for {name!r}: train one (train/train_verifier.py).")


# --- weight files -----------------------------------------------------------------------------------------------------


def save_verifier(path: str | Path, verifier: Verifier, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file in half precision: weights, config and `metadata`, its SHA-256 beside it."""
    weights = {name: value.half() for name, value in verifier.state_dict().items()}
    save_weights(path, weights, {**(metadata or {}), VERIFIER_KEY: json.dumps(asdict(verifier.config))})


def load_verifier(path: str | Path, pipeline: Any) -> Verifier:
    """Read a verifier for a pipeline, in eval mode and without gradients of its weights.

    Raises: MissingWeights if there is no such file; BadWeights if it is damaged or made for another model.
    """
    weights, metadata = load_weights(Path(path))
    try:
        config = VerifierConfig(**json.loads(metadata[VERIFIER_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadWeights(f"{Path(path).name} is not a verifier: it has no config of one.") from error
    encoder = _truncate(copy.deepcopy(network_of(pipeline))).float()
    verifier = Verifier(encoder, config)
    try:
        verifier.load_state_dict({name: value.float() for name, value in weights.items()})
    except RuntimeError as error:
        raise BadWeights(f"{Path(path).name} is a verifier for another model than this pipeline's.") from error
    verifier.metadata = {key: value for key, value in metadata.items() if key != VERIFIER_KEY}
    return verifier.to(pipeline._execution_device).requires_grad_(False).eval()
