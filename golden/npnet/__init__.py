"""NPNet: the network that turns a source noise and a prompt into a golden noise, and its weight files.

    npnet = load_npnet("sdxl")  # published weights by name, or the path of a file
    golden_noise = npnet(source_noise, prompt_embeds)  # (B, C, H, W), (B, T, D) -> (B, C, H, W)

branches/ has the parts (a new one is added there), config.py their settings, network.py their sum, files.py the
weight files, published.py the names under which published weights are known.
"""

from .branches import (
    BRANCHES,
    NETWORKS,
    Branch,
    BranchInput,
    DenoiserConfig,
    LayoutConfig,
    ResidualConfig,
    SingularConfig,
    SwinConfig,
    TextConfig,
    decompose,
    fix_signs,
    to_matrix,
    to_noise,
)
from .config import NPNetConfig, change_config
from .files import CONFIG_KEY, load_npnet, save_npnet
from .network import NPNet
from .published import NPNETS, PublishedNPNet, find_npnet

__all__ = [
    "BRANCHES",
    "CONFIG_KEY",
    "NETWORKS",
    "NPNETS",
    "Branch",
    "BranchInput",
    "DenoiserConfig",
    "LayoutConfig",
    "NPNet",
    "NPNetConfig",
    "PublishedNPNet",
    "ResidualConfig",
    "SingularConfig",
    "SwinConfig",
    "TextConfig",
    "change_config",
    "decompose",
    "find_npnet",
    "fix_signs",
    "load_npnet",
    "save_npnet",
    "to_matrix",
    "to_noise",
]
