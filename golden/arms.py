"""The arms of a comparison: how a source noise becomes the noise that is denoised.

One contract for all: `arm(source_noise (B, C, h, w), Conditions) -> noise (B, C, h, w)`. What follows is the same for
every arm, so that two arms differ in their noise and in nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from .errors import InvalidInput, MissingWeights
from .models import ModelSpec
from .noise import at_length_of, random_change, redenoise, repaint
from .npnet import NPNet
from .pipelines import Embeddings, encode_prompts, repeat_embeddings
from .sizes import predict_golden


@dataclass(frozen=True)
class Conditions:
    """What an arm may look at: rows of `embeddings` and `seeds` belong to the rows of the source noise."""

    spec: ModelSpec
    pipeline: Any
    npnet: NPNet | None
    embeddings: Embeddings
    seeds: Sequence[int]


Arm = Callable[[Tensor, Conditions], Tensor]


def standard(source: Tensor, conditions: Conditions) -> Tensor:
    """The source noise itself."""
    return source


def npnet(source: Tensor, conditions: Conditions) -> Tensor:
    """NPNet's golden noise. Raises: MissingWeights if the model has no NPNet."""
    if conditions.npnet is None:
        raise MissingWeights(f"There is no NPNet for {conditions.spec.name!r}: train one, or give a file with --npnet.")
    device = next(conditions.npnet.parameters()).device
    prompt_embeds = conditions.embeddings["prompt_embeds"].to(device)
    with torch.inference_mode():
        return predict_golden(conditions.npnet, source.to(device), prompt_embeds).cpu()


def inversion(source: Tensor, conditions: Conditions) -> Tensor:
    """The target noise of re-denoise sampling: what NPNet learns to predict, at the price of some guided steps."""
    spec = conditions.spec
    num_inference_steps, num_steps_down = spec.redenoise_schedule
    return redenoise(
        conditions.pipeline,
        spec.redenoise_length * source,
        conditions.embeddings,
        guidance_scale=spec.redenoise_guidance_scale,
        num_inference_steps=num_inference_steps,
        num_steps_down=num_steps_down,
        solver=spec.redenoise_solver,
    )


def repainted(source: Tensor, conditions: Conditions) -> Tensor:
    """One guided step down, random noise back up. Source: Table 2 of the paper."""
    scale = conditions.spec.redenoise_guidance_scale
    return repaint(conditions.pipeline, source, conditions.embeddings, conditions.seeds, guidance_scale=scale)


def equal_norm_random(source: Tensor, conditions: Conditions) -> Tensor:
    """Control: as far from the source noise as NPNet goes, in a random direction."""
    return random_change(source, npnet(source, conditions), conditions.seeds)


def equal_length(source: Tensor, conditions: Conditions) -> Tensor:
    """Control: the source noise times one number, as long as NPNet's golden noise is, in its own direction."""
    return at_length_of(source, npnet(source, conditions))


def npnet_unit_std(source: Tensor, conditions: Conditions) -> Tensor:
    """Control: NPNet's golden noise brought back to the mean and spread of the source noise."""
    golden = npnet(source, conditions)
    centred = golden - golden.mean((1, 2, 3), keepdim=True)
    spread = source.std((1, 2, 3), keepdim=True) / golden.std((1, 2, 3), keepdim=True)
    return centred * spread + source.mean((1, 2, 3), keepdim=True)


def npnet_other_prompt(source: Tensor, conditions: Conditions) -> Tensor:
    """Control: NPNet told another prompt than the pipeline is (the next row's, or an unrelated one)."""
    embeddings = conditions.embeddings
    # Equal rows get equal numbers: in a batch of several seeds per prompt the next row is often the same prompt.
    _, kinds = embeddings["prompt_embeds"].flatten(1).unique(dim=0, return_inverse=True)
    if kinds.max() > 0:
        prompts = kinds.tolist()
        others = [
            next(j % len(prompts) for j in count(i) if prompts[j % len(prompts)] != p) for i, p in enumerate(prompts)
        ]
        told = {name: value[others] for name, value in embeddings.items()}
    else:
        unrelated = [encode_prompts(conditions.pipeline, [prompt]) for prompt in _UNRELATED[conditions.spec.is_shapes]]
        own = embeddings["prompt_embeds"][:1]
        other = next(candidate for candidate in unrelated if not torch.equal(candidate["prompt_embeds"], own))
        told = repeat_embeddings(other, len(source))
    return npnet(source, replace(conditions, embeddings=told))


# Two each, so that one is always another prompt than the user's own.
_UNRELATED = {
    True: ("four purple crosses on a black background", "a green heart"),
    False: ("a bowl of soup on a kitchen table", "a steam engine in the snow"),
}

ARMS: dict[str, Arm] = {
    "standard": standard,
    "npnet": npnet,
    "inversion": inversion,
    "repaint": repainted,
    "random": equal_norm_random,
    "length": equal_length,
    "npnet_other_prompt": npnet_other_prompt,
    "npnet_unit_std": npnet_unit_std,
}


def find_arm(name: str) -> Arm:
    """An arm by name. Raises: InvalidInput listing the valid names."""
    if not isinstance(name, str) or name not in ARMS:
        given = repr(name[:40]) if isinstance(name, str) else f"of type {type(name).__name__}"
        raise InvalidInput(f"Unknown arm {given}: choose one of {', '.join(ARMS)}.")
    return ARMS[name]


def mix(source: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The strength dial: `source + strength * (noise - source)`, 0 the source noise and 1 the arm's own."""
    return source + strength * (noise - source)
