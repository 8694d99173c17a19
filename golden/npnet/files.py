"""Weight files of NPNets: our own, the published ones and what the community made of them."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BadWeights, InvalidInput
from ..files import VERIFIER_KEY, load_weights, save_weights
from .branches import BRANCHES
from .config import NPNetConfig, change_config, config_from_json, config_to_json
from .network import NPNet
from .published import find_npnet

CONFIG_KEY = "npnet_config"  # where our own weight files keep their NPNetConfig, as JSON
MAX_BUFFER_BYTES = 2**28  # of what follows from the config alone; the published one has a megabyte


def save_npnet(path: str | Path, net: NPNet, metadata: dict[str, str] | None = None) -> None:
    """Write our own safetensors file: the weights, the config and `metadata` in its header, its SHA-256 beside it."""
    if Path(path).suffix != ".safetensors":
        raise InvalidInput(f"NPNet weights are saved as .safetensors, got the name {Path(path).name}.")
    save_weights(path, _shorten(net.state_dict()), {**(metadata or {}), CONFIG_KEY: config_to_json(net.config)})


def _shorten(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, a denoiser's in half precision, which is how diffusers models are kept."""
    prefix = f"{BRANCHES['denoiser'].key}."
    return {key: value.half() if key.startswith(prefix) else value for key, value in weights.items()}


def load_npnet(path: str | Path, **overrides: Any) -> NPNet:
    """Read an NPNet, in eval mode, on the CPU, without gradients (`.requires_grad_(True).train()` to train it further).

    `path` is a file or a name of NPNETS. Reads our own safetensors; the published `.pth`; the two flattened safetensors
    spellings that the community made of it; each with the Swin keys of any timm version. `overrides` change the config,
    see `change_config`: `load_npnet(path, residual=None)` leaves a branch out, `load_npnet(path, attention=False)` uses
    published weights the way they were trained.

    Raises: MissingWeights if there is no such file; BadWeights if it is damaged or not an NPNet, naming the keys that
    are missing, unexpected or of another shape; InvalidInput for an override that is no field of the config.
    """
    path = find_npnet(path)
    name = path.name
    entries, metadata = load_weights(path)
    if VERIFIER_KEY in metadata:
        raise BadWeights(f"{name} is a verifier, not an NPNet.")
    tensors = _translate(name, _flatten(name, entries))
    config = _read_config(name, metadata[CONFIG_KEY]) if CONFIG_KEY in metadata else _published_config(tensors)
    config = change_config(config, overrides)
    plan = _plan(name, config)
    absent = tuple(f"{branch.key}." for name, branch in BRANCHES.items() if getattr(config, name) is None)
    tensors = {key: value for key, value in tensors.items() if not key.startswith(absent)}
    _check_entries(name, tensors, plan)
    with torch.random.fork_rng(devices=[]):  # the first, random weights shall not move the caller's seeds
        net = NPNet(config)
    net.load_state_dict(tensors)
    net.metadata = {key: value for key, value in metadata.items() if key != CONFIG_KEY}
    return net.requires_grad_(False).eval()


def _flatten(name: str, entries: dict) -> dict[str, Tensor]:
    """{"unet_svd": {"bn.bias": t}} and {"unet_svd.bn.bias": t} both become the second; only tensors are let through."""
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        nested = isinstance(value, dict)
        flat.update({f"{key}.{inner}": v for inner, v in value.items()} if nested else {str(key): value})
    for key, value in flat.items():
        if not isinstance(value, Tensor):
            raise BadWeights(f"{name} is not an NPNet: its entry {key} is a {type(value).__name__}, not a tensor.")
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or value.is_complex():
            raise BadWeights(f"{name} is not an NPNet: its entry {key} is not a plain tensor of real numbers.")
    return flat


def _translate(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Foreign keys -> ours: the published misspelling, and what older timm versions saved for a Swin.

    timm up to 0.6 put the step between two stages at the end of the earlier one; newer versions have it at the start of
    the later one. Before 0.9.16 tables that follow from the sizes were saved too. The classifier (`head`) is never used
    here and is dropped.
    """
    swin = "unet_embedding.swin."
    old_stages = f"{swin}layers.0.downsample.reduction.weight" in tensors
    translated: dict[str, Tensor] = {}
    for key, value in tensors.items():
        new = re.sub(r"^embeeding\.", "text_embedding.", key)
        if new.startswith(swin):
            if new.startswith(f"{swin}head.") or new.endswith((".attn_mask", ".relative_position_index")):
                continue
            if old_stages:
                new = re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", new)
        if new in translated:
            raise BadWeights(f"{name} holds {new} twice, under two spellings.")
        translated[new] = value.reshape(1) if new in ("alpha", "beta") and value.numel() == 1 else value
    return translated


def _published_config(tensors: dict[str, Tensor]) -> NPNetConfig:
    """The published networks differ in the width of the text encoder alone."""
    config = NPNetConfig()
    weight = tensors.get("text_embedding.linear.weight")
    if weight is None or weight.ndim != 2 or weight.shape[1] % config.num_tokens:
        return config  # the comparison of keys and shapes will say what is wrong
    return replace(config, embedding_dim=min(max(weight.shape[1] // config.num_tokens, 1), 16384))


def _read_config(name: str, text: str) -> NPNetConfig:
    try:
        return config_from_json(text)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # InvalidInput is a ValueError
        raise BadWeights(f"{name} describes an NPNet that cannot be built: {error}") from error


def _plan(name: str, config: NPNetConfig) -> NPNet:
    """The network's sizes without its memory: what the file's config asks for may be more than there is."""
    try:
        with torch.device("meta"):
            return NPNet(config)
    except InvalidInput as error:
        raise BadWeights(f"{name} describes an NPNet that cannot be built: {error}") from error


def _check_entries(name: str, tensors: dict[str, Tensor], net: NPNet) -> None:
    expected = net.state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    num_bytes = sum(value.nbytes for value in net.buffers())  # a Swin's tables are in no file
    if num_bytes > MAX_BUFFER_BYTES:
        raise BadWeights(f"{name} describes an NPNet that cannot be built: its Swin's tables take {num_bytes} bytes.")
    faults = [_count(missing, "missing"), _count(unexpected, "unexpected"), _count(misshapen, "of another shape")]
    if any(faults):
        raise BadWeights(f"{name} is not an NPNet of this kind: {'; '.join(filter(None, faults))}.")
    broken = next((key for key, value in tensors.items() if not torch.isfinite(value.float()).all()), None)
    if broken:
        raise BadWeights(f"{name} contains NaN or Inf, first in {broken}.")


def _count(keys: Iterable[str], what: str, shown: int = 3) -> str:
    """ "4 keys missing (a, b, c, ...)", or "" for none."""
    keys = list(keys)
    if not keys:
        return ""
    listed = ", ".join([key[:120] for key in keys[:shown]] + ["..."] * (len(keys) > shown))
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} {what} ({listed})"
