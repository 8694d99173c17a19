"""Kinds of target noise, by the names that --targets takes: 10x1, 20x5@2.5:0.7, npnet*2, ascent12, gradient, source."""

import re
from collections.abc import Iterable

from torch import Tensor

from golden.arms import ARMS, Conditions, mix
from golden.errors import InvalidInput
from golden.model import Model
from golden.models import ModelSpec, Redenoise
from golden.noise import redenoise
from golden.pipelines import Embeddings
from golden.reward import NUM_ITERATIONS, Reward, ascend, step_up
from golden.verifier import missing_verifier
from train.settings import CollectionSettings

_NUMBER = r"\d{1,3}(?:\.\d+)?"
_TARGET = re.compile(
    rf"(?P<noise>source|gradient|npnet(?:\*(?P<strength>{_NUMBER}))?|ascent(?P<iterations>[1-9]\d{{0,2}})?"
    rf"|(?P<steps>\d{{1,4}})x(?P<down>\d{{1,4}})(?:@(?P<guidance>{_NUMBER}))?)"
    rf"(?::(?P<norm>{_NUMBER}))?"
)


def parse_target(name: str) -> re.Match[str]:
    """The parts of a target's name: noise, strength, iterations, steps, down, guidance, norm; None if left out.

    Raises: InvalidInput for anything else.
    """
    parts = _TARGET.fullmatch(name)
    if not parts:
        raise InvalidInput(
            "A target is 'source', 'npnet', 'npnet*STRENGTH', 'gradient', 'ascent', 'ascent' with a number of steps "
            "such as ascent12, or STEPSxDOWN[@GUIDANCE] such as 10x1 or 20x3@7.5, optionally followed by :NORM such as "
            f":0.7, got {name[:40]!r}."
        )
    return parts


def needs_guidance(name: str) -> bool:
    """Whether a target is made by re-denoise sampling, which lives on the difference that guidance makes."""
    return parse_target(name)["steps"] is not None


def needs_verifier(name: str) -> bool:
    """Whether a target is made by the gradient of the verifier's reward, in one step or several."""
    return parse_target(name)["noise"].startswith(("ascent", "gradient"))


def check_targets(spec: ModelSpec, targets: Iterable[str]) -> None:
    """Raises: as `parse_target`; InvalidInput where re-denoise sampling has nothing to find, naming what to do instead;
    MissingWeights where ascent has no verifier to ask.
    """
    targets = [*targets]
    for target in targets:
        parse_target(target)
    if any(map(needs_verifier, targets)) and not spec.has_verifier:
        raise missing_verifier(spec.name)
    if not spec.has_guidance_gap and any(map(needs_guidance, targets)):
        raise InvalidInput(
            f"Re-denoise pairs hold the difference that guidance makes, and {spec.name!r} generates without guidance: "
            "train with --objective reward, or choose among noises with the arms select_4, select_16 and select_64."
        )


def default_target(spec: ModelSpec) -> str:
    """The name of the target that a model's own re-denoise settings make."""
    settings = spec.redenoise
    name = f"{settings.num_inference_steps}x{settings.num_steps_down}"
    return name + (f":{settings.norm:g}" if settings.norm != 1 else "")


def make_target(
    name: str, model: Model, settings: CollectionSettings, source: Tensor, embeddings: Embeddings
) -> Tensor:
    """Target noise (B, C, h, w) of a kind in --targets from source noise (B, C, h, w). Raises: as `parse_target`."""
    parts = parse_target(name)
    norm = float(parts["norm"] or 1)
    if parts["noise"] == "source":
        return norm * source
    if parts["noise"].startswith("npnet"):
        golden = ARMS["npnet"](norm * source, Conditions(model, model.npnet, embeddings, []))
        return mix(norm * source, golden, float(parts["strength"] or 1))
    if needs_verifier(name):
        reward = Reward(model, model.spec.reward)
        if parts["noise"] == "gradient":
            return step_up(reward, norm * source, embeddings).cpu()
        num_iterations = int(parts["iterations"] or NUM_ITERATIONS)
        return ascend(reward, norm * source, embeddings, num_iterations=num_iterations).cpu()
    own = model.spec.redenoise
    target = Redenoise(
        guidance_scale=float(parts["guidance"] or settings.redenoise_guidance_scale or own.guidance_scale),
        inversion_guidance_scale=settings.inversion_guidance_scale,
        num_inference_steps=int(parts["steps"]),
        num_steps_down=int(parts["down"]),
        solver=settings.redenoise_solver or own.solver,
        evaluate_at=settings.evaluate_at,
        norm=norm,
        sigma_down=own.sigma_down,
    )
    return redenoise(model.pipeline, source, embeddings, target)
