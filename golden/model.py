"""A loaded model: its pipeline, its NPNet, its checker, and the lock that gives one run at a time the pipeline."""

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from .checkers import Checker, find_checker
from .errors import InvalidInput, MissingWeights
from .families import Family, find_family
from .models import ModelSpec, find_model
from .npnet import NPNETS, NPNet, load_npnet
from .pipelines import is_spared, load_pipeline
from .verifier import BorrowedVerifier, Verifier, load_verifier, make_verifier

AnyVerifier = Verifier | BorrowedVerifier


class _OnDemand:
    """A field that holds the verifier that was given or, once it is asked for, the one in the file of the spec."""

    def __get__(self, model: "Model | None", owner: type | None = None) -> AnyVerifier | None:
        if model is None:
            return None  # the default
        found = vars(model)["verifier"]
        if found is None and model.spec.has_verifier:
            with torch.inference_mode(False):  # or no gradient would ever pass through it
                found = build_verifier(model.spec, model.pipeline, model.spec.verifier)
            vars(model)["verifier"] = found
        return found

    def __set__(self, model: "Model", verifier: AnyVerifier | None) -> None:
        vars(model)["verifier"] = verifier


_ON_DEMAND = cast(Any, _OnDemand())


def build_verifier(spec: ModelSpec, pipeline: Any, path: str | Path | None = None) -> AnyVerifier:
    """The verifier of a model's pipeline in the file at `path`, or an untrained one.

    Its encoder is that of the pipeline's own network or, if the spec says `verifier_of`, of that model's.
    """
    owner = pipeline
    if spec.verifier_of is not None:
        owner = load_pipeline(find_model(spec.verifier_of), str(pipeline._execution_device))
    verifier = make_verifier(owner) if path is None else load_verifier(path, owner)
    return verifier if owner is pipeline else BorrowedVerifier(verifier, owner)


@dataclass
class Model:
    """A loaded model; `npnet` and `verifier` are None if it has none.

    The verifier is read from the file of the spec when it is first asked for: most comparisons never do.
    `npnet_name` is the file or the name of NPNETS that its NPNet was loaded from, None if unknown.
    """

    spec: ModelSpec
    pipeline: Any
    npnet: NPNet | None
    verifier: AnyVerifier | None = _ON_DEMAND
    lock: threading.Lock = field(default_factory=threading.Lock)
    npnet_name: str | None = None

    @property
    def has_verifier(self) -> bool:
        """Whether there is a verifier, without reading its file."""
        return vars(self)["verifier"] is not None or self.spec.has_verifier

    @property
    def family(self) -> Family:
        return find_family(self.pipeline)

    @property
    def checker(self) -> Checker | None:
        return find_checker(self.spec.checker)


def load_model(
    name: str = "shapes",
    *,
    npnet: str | Path | None = None,
    verifier: str | Path | None = None,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    memory: str = "high",
) -> Model:
    """Load a model of MODELS (or a diffusers folder) with its NPNet, or with `npnet`, a file or a name of NPNETS.

    `verifier` is a file in place of the model's own; either is read when an arm or a reward first asks for it. A model
    whose own NPNet cannot be fetched loads without it, since other arms need none. `memory` is one of
    pipelines.MEMORY_MODES; if it is low, NPNet stays on the CPU, where it takes a tenth of a second.

    Raises: InvalidInput for an unknown name or a device that torch lacks here; MissingWeights or BadWeights if weights
    are missing or do not fit.
    """
    spec = with_verifier(find_model(name), verifier)
    device = pick_device(device)
    weights = npnet or spec.npnet
    check_npnet_name(spec, weights)
    try:
        network = load_npnet(weights) if weights else None
    except MissingWeights:
        if npnet:
            raise
        network = None
    pipeline = load_pipeline(spec, device, dtype, memory)
    if network and not is_spared(pipeline):
        network.to(device)
    return Model(spec, pipeline, network, npnet_name=str(weights) if network else None)


def with_verifier(spec: ModelSpec, verifier: str | Path | None) -> ModelSpec:
    """The spec with a file of a verifier in place of its own, if one is given.

    Raises: MissingWeights if there is no such file.
    """
    if verifier is None:
        return spec
    if not Path(verifier).is_file():
        raise MissingWeights(f"There is no verifier at {verifier}: give a file made by train/train_verifier.py.")
    return replace(spec, verifier=str(verifier))


def check_npnet_name(spec: ModelSpec, npnet: str | Path | None) -> None:
    """Raises: InvalidInput if a published NPNet is for another family of models, before it is downloaded."""
    name = str(npnet)
    sizes = {known: (entry.channels, entry.embedding_dim) for known, entry in NPNETS.items()}
    fitting = {sizes[known] for known in spec.family.npnets}
    if name in sizes and not Path(name).is_file() and fitting and sizes[name] not in fitting:
        raise InvalidInput(
            f"The NPNet {name!r} is not for {spec.title or spec.name}, whose prompt embeddings or latents differ in "
            f"size: give a file or one of {', '.join(known for known in sizes if sizes[known] in fitting)}."
        )


def _devices() -> list[str]:
    """What can be chosen as a device on this machine."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["auto", "cpu", *(["cuda"] if gpus else []), *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def pick_device(name: str = "auto") -> str:
    """A torch device by name; "auto" is CUDA if there is one, else MPS, else the CPU.

    Raises: InvalidInput for a device that torch does not have here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter if torch was built without it
        raise InvalidInput(f"The model cannot run on {name!r} here: choose {', '.join(_devices())}.") from error
    return name
