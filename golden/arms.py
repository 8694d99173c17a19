"""The arms of a comparison: how a source noise becomes the noise that is denoised.

One contract for all: `arm(source_noise (B, C, h, w), Conditions) -> noise (B, C, h, w)`. What follows is the same for
every arm, so that two arms differ in their noise and in nothing else.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import torch
from torch import Tensor

from .checks import check_name
from .errors import MissingWeights
from .families import Embeddings
from .model import Model
from .models import ModelSpec
from .noise import Noise, at_norm_of, random_change, redenoise, repaint, source_noise
from .npnet import NPNet
from .pipelines import encode_prompts, repeat_embeddings
from .reward import Reward, ascend
from .sizes import predict_golden


@dataclass(frozen=True)
class Conditions:
    """What an arm may look at: rows of `embeddings` and `seeds` belong to the rows of the source noise."""

    model: Model
    npnet: NPNet | None
    embeddings: Embeddings
    seeds: Sequence[int]


Arm = Callable[[Tensor, Conditions], Tensor]


def standard(source: Noise, conditions: Conditions) -> Noise:
    """The source noise itself."""
    return source


def at_best_norm(source: Noise, conditions: Conditions) -> Noise:
    """Baseline: the source noise times the model's own best norm, which takes no network and knows no prompt."""
    return conditions.model.spec.best_norm * source


def npnet(source: Noise, conditions: Conditions) -> Noise:
    """NPNet's golden noise. Raises: MissingWeights if the model has no NPNet."""
    if conditions.npnet is None:
        name = conditions.model.spec.name
        raise MissingWeights(f"There is no NPNet for {name!r}: train one, or pass a file with --npnet.")
    device = next(conditions.npnet.parameters()).device
    prompt_embeds = conditions.model.family.npnet_embeds(conditions.embeddings).to(device)
    with torch.inference_mode():
        return predict_golden(conditions.npnet, source.to(device), prompt_embeds).cpu()


def npnet_at_best_norm(source: Noise, conditions: Conditions) -> Noise:
    """NPNet's golden noise times the model's own best norm: what NPNet adds to a better norm.

    Raises: as `npnet`.
    """
    return conditions.model.spec.best_norm * npnet(source, conditions)


def inversion(source: Noise, conditions: Conditions) -> Noise:
    """The target noise of re-denoise sampling: what NPNet learns to predict, at the price of some guided steps."""
    model = conditions.model
    return redenoise(model.pipeline, source, conditions.embeddings, model.spec.redenoise)


def repainted(source: Noise, conditions: Conditions) -> Noise:
    """Baseline: one guided step down, random noise back up. Source: Table 2 of the paper."""
    model = conditions.model
    settings = model.spec.redenoise
    return repaint(
        model.pipeline,
        source,
        conditions.embeddings,
        conditions.seeds,
        guidance_scale=settings.guidance_scale,
        sigma_down=settings.sigma_down,
    )


def equal_norm_random(source: Noise, conditions: Conditions) -> Noise:
    """Control: as far from the source noise as NPNet goes, in a random direction."""
    return random_change(source, npnet(source, conditions), conditions.seeds)


def at_npnet_norm(source: Noise, conditions: Conditions) -> Noise:
    """Control: the source noise scaled to the norm of NPNet's golden noise, its direction unchanged."""
    return at_norm_of(source, npnet(source, conditions))


def unit_std(source: Noise, conditions: Conditions) -> Noise:
    """Control: NPNet's golden noise brought back to the mean and standard deviation of the source noise."""
    golden = npnet(source, conditions)
    centred = golden - golden.mean((1, 2, 3), keepdim=True)
    spread = source.std((1, 2, 3), keepdim=True) / golden.std((1, 2, 3), keepdim=True)
    return centred * spread + source.mean((1, 2, 3), keepdim=True)


def mismatched(source: Noise, conditions: Conditions) -> Noise:
    """Control: NPNet with a mismatched prompt (the next row's, or an unrelated one)."""
    embeddings = conditions.embeddings
    # Equal rows get equal numbers: in a batch of several seeds per prompt the next row is often the same prompt.
    _, kinds = embeddings["prompt_embeds"].flatten(1).unique(dim=0, return_inverse=True)
    if kinds.max() > 0:
        prompts = kinds.tolist()
        others = [
            next(j % len(prompts) for j in count(i) if prompts[j % len(prompts)] != p) for i, p in enumerate(prompts)
        ]
        given = {name: value[others] for name, value in embeddings.items()}
    else:
        model = conditions.model
        prompts = model.checker.unrelated if model.checker else _UNRELATED
        unrelated = [encode_prompts(model.pipeline, [prompt]) for prompt in prompts]
        own = embeddings["prompt_embeds"][:1]
        other = next(candidate for candidate in unrelated if not torch.equal(candidate["prompt_embeds"], own))
        given = repeat_embeddings(other, len(source))
    return npnet(source, replace(conditions, embeddings=given))


# Two, so that one always differs from the user's own prompt.
_UNRELATED = ("a bowl of soup on a kitchen table", "a steam engine in the snow")


def ascent(source: Noise, conditions: Conditions) -> Noise:
    """Gradient ascent on the noise for the verifier's reward, norm kept: what the noise holds, at a high price.

    Source: ReNO, arXiv 2406.04312. Raises: MissingWeights if the model has no verifier.
    """
    reward = Reward(conditions.model, conditions.model.spec.reward)
    return ascend(reward, source, conditions.embeddings).cpu()


def select(source: Noise, conditions: Conditions, num_noises: int) -> Noise:
    """The best of `num_noises` noises, the source noise among them, by the verifier's reward after a few guided steps.

    No image is finished for it. Raises: MissingWeights if the model has no verifier.
    """
    reward = Reward(conditions.model, conditions.model.spec.reward)
    best, best_reward = source, torch.full((len(source),), -torch.inf)
    for index in range(num_noises):
        seeds = [(seed + index * _SELECTED_APART) % 2**32 for seed in conditions.seeds]
        noise = source if index == 0 else source_noise(seeds, source.shape[1:])
        with torch.no_grad():
            rewards = reward(noise, conditions.embeddings).float().cpu()
        best = torch.where((rewards > best_reward).view(-1, 1, 1, 1), noise, best)
        best_reward = torch.maximum(rewards, best_reward)
    return best


_SELECTED_APART = 2**20 + 7  # between the seeds of one row's noises, so that no other row's are among them

ARMS: dict[str, Arm] = {
    "standard": standard,
    "npnet": npnet,
    "inversion": inversion,
    "repaint": repainted,
    "best_norm": at_best_norm,
    "npnet_best_norm": npnet_at_best_norm,
    "random": equal_norm_random,
    "norm": at_npnet_norm,
    "mismatched": mismatched,
    "unit_std": unit_std,
    "ascent": ascent,
    "select_4": partial(select, num_noises=4),
    "select_16": partial(select, num_noises=16),
    "select_64": partial(select, num_noises=64),
}


WITH_NPNET = ("npnet", "npnet_best_norm", "random", "norm", "mismatched", "unit_std")
"""Arms that are made from NPNet's golden noise."""
WITH_VERIFIER = ("ascent", "select_4", "select_16", "select_64")
"""Arms that ask a verifier."""
NORM_ALONE = ("norm", "unit_std")
"""Arms that differ from standard or golden noise in the norm alone."""


def available_arms(model: Model) -> tuple[str, ...]:
    """The names of ARMS that a model can do: some need an NPNet, some a verifier, and inversion a guidance gap.

    Of an NPNet that keeps the norm, what concerns the norm alone would be standard's and golden's images once more.
    """
    arms = arms_for(model.spec, has_npnet=model.npnet is not None, has_verifier=model.has_verifier)
    keeps_norm = model.npnet is not None and model.npnet.config.keep_norm
    return tuple(arm for arm in arms if not (keeps_norm and arm in NORM_ALONE))


def arms_for(spec: ModelSpec, *, has_npnet: bool, has_verifier: bool) -> tuple[str, ...]:
    """`available_arms` of a model that is not loaded."""
    missing = {
        *(() if has_npnet else WITH_NPNET),
        *(() if has_verifier else WITH_VERIFIER),
        *(() if spec.has_guidance_gap else ("inversion",)),
    }
    return tuple(arm for arm in ARMS if arm not in missing)


def find_arm(name: str) -> Arm:
    """An arm by name. Raises: InvalidInput listing the valid names."""
    return ARMS[check_name("arm", name, ARMS)]


def mix(source: Noise, noise: Noise, strength: float) -> Noise:
    """The strength dial: `source + strength * (noise - source)`, 0 the source noise and 1 the arm's own."""
    return source + strength * (noise - source)


def make_noises(
    arms: Iterable[str], source: Noise, conditions: Conditions, strength: float = 1.0
) -> tuple[dict[str, Noise], dict[str, float]]:
    """By arm, its noise and the seconds that it took."""
    noises, seconds = {}, {}
    for arm in arms:
        started = time.perf_counter()
        noises[arm] = mix(source, find_arm(arm)(source, conditions), strength)
        seconds[arm] = time.perf_counter() - started
    return noises, seconds
