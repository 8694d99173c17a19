"""The branches of an NPNet: what each adds to the golden noise, one file a branch, and BRANCHES.

A new branch is a file with its config and its module, its line of BRANCHES here, and its field in NPNetConfig.
"""

from .base import Branch, BranchInput, Noise, Shapes, check_integers
from .denoiser import NETWORKS, DenoiserBranch, DenoiserConfig
from .layout import LayoutBranch, LayoutConfig
from .residual import ResidualBranch, ResidualConfig, SwinConfig
from .singular import SingularBranch, SingularConfig, decompose, fix_signs, to_matrix, to_noise
from .text import TextBranch, TextConfig

__all__ = [
    "BRANCHES",
    "NETWORKS",
    "Branch",
    "BranchInput",
    "DenoiserConfig",
    "LayoutConfig",
    "Noise",
    "ResidualConfig",
    "Shapes",
    "SingularConfig",
    "SwinConfig",
    "TextConfig",
    "check_integers",
    "decompose",
    "fix_signs",
    "to_matrix",
    "to_noise",
]

# By the name of its field in NPNetConfig, in the order in which modules are made, on which the random weights depend.
BRANCHES: dict[str, Branch] = {
    "singular": Branch(SingularConfig, SingularBranch, "unet_svd", "singular"),
    "residual": Branch(ResidualConfig, ResidualBranch, "unet_embedding", "residual"),
    "text": Branch(TextConfig, TextBranch, "text_embedding", "text_embedding"),
    "layout": Branch(LayoutConfig, LayoutBranch, "layout", "layout"),
    "denoiser": Branch(DenoiserConfig, DenoiserBranch, "denoiser", "denoiser"),
}
