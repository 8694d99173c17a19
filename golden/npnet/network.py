"""The network: its branches summed up to the golden noise."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InvalidInput
from .branches import BRANCHES, BranchInput, Noise
from .config import NPNetConfig
from .sharing import SharedNPNet


class NPNet(SharedNPNet, nn.Module):
    """golden = singular(x) + (2 sigmoid(alpha) - 1) e + beta residual(x + e), where e is x restyled by the prompt.

    Our own weights may add other branches to the sum, see BRANCHES.
    Source: arXiv 2411.09502, section 3.3, the noise prompt network. alpha and beta start at 0, so that only the
    singular branch counts at first. Put it in eval mode to predict (`load_npnet` does): in training mode the Swin drops
    paths.
    """

    def __init__(self, config: NPNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NPNetConfig()
        self.metadata: dict[str, str] = {}  # what the weight file says about itself
        for name, branch in BRANCHES.items():
            own_config = getattr(config, name)
            setattr(self, branch.key, None if own_config is None else branch.module_class(config, own_config))
        self.alpha = nn.Parameter(torch.zeros(1), requires_grad=config.text is not None)
        self.beta = nn.Parameter(torch.zeros(1), requires_grad=config.residual is not None)

    @property
    def branch_modules(self) -> dict[str, nn.Module]:
        """The modules of the branches that this network has, by name of BRANCHES."""
        modules = {name: getattr(self, branch.key) for name, branch in BRANCHES.items()}
        return {name: module for name, module in modules.items() if module is not None}

    # Wrong shapes get a sentence of their own, so that the annotations of what comes in say nothing of them.
    def forward(self, source_noise: Float[Tensor, "..."], prompt_embeds: Float[Tensor, "..."]) -> Noise:
        """Predict the golden noise: (B, C, H, W) noise and (B, T, D) prompt embeddings -> (B, C, H, W), noise's dtype.

        Computed in fp32 whatever comes in, also under autocast. Any batch size; rows do not see each other.

        Raises: InvalidInput for other shapes than the config's, or for NaN or Inf in the noise of a singular branch.
        """
        return self.branches(source_noise, prompt_embeds)["golden"].to(source_noise.dtype)

    def branches(self, source_noise: Float[Tensor, "..."], prompt_embeds: Float[Tensor, "..."]) -> dict[str, Tensor]:
        """The output of each branch before its weight (text_embedding, residual, singular, ...) and golden, in fp32.

        Of a branch that is left out, singular is the source noise and the others are zeros.
        """
        self._check_shapes(source_noise, prompt_embeds)
        modules = self.branch_modules
        with torch.autocast(source_noise.device.type, enabled=False):
            noise, zeros = source_noise.float(), torch.zeros_like(source_noise, dtype=torch.float32)
            inputs = BranchInput(noise, prompt_embeds.float(), zeros)
            outputs = {branch.output: zeros for branch in BRANCHES.values()} | {"singular": noise}
            if "text" in modules:
                inputs = inputs._replace(text=modules["text"](inputs))
                outputs["text_embedding"] = inputs.text
            for name in (name for name in modules if name != "text"):
                outputs[BRANCHES[name].output] = modules[name](inputs)
            # golden = x' + (2 sigmoid(alpha) - 1) e + beta r, and what our own branches add
            golden = outputs["singular"] + (2 * torch.sigmoid(self.alpha) - 1) * outputs["text_embedding"]
            golden = golden + self.beta * outputs["residual"]
            for name, output in outputs.items():
                if name not in ("singular", "text_embedding", "residual"):
                    golden = golden + output
            golden = self._keep_norm(golden, noise)
            if self.config.change_gain != 1:  # without what the norm undoes
                golden = self._keep_norm(noise + self.config.change_gain * (golden - noise), noise)
        return outputs | {"golden": golden}

    def _keep_norm(self, golden: Noise, noise: Noise) -> Noise:
        return golden * (_row_norms(noise) / _row_norms(golden)) if self.config.keep_norm else golden

    def _check_shapes(self, source_noise: Tensor, prompt_embeds: Tensor) -> None:
        config = self.config
        if source_noise.ndim != 4 or tuple(source_noise.shape[1:]) != (config.channels, config.height, config.width):
            raise InvalidInput(
                f"This NPNet takes source noise of shape (batch, {config.channels}, {config.height}, {config.width}), "
                f"got {tuple(source_noise.shape)}."
            )
        expected = (source_noise.shape[0], config.num_tokens, config.embedding_dim)
        if tuple(prompt_embeds.shape) != expected:
            raise InvalidInput(
                f"This NPNet takes prompt embeddings of shape {expected}, got {tuple(prompt_embeds.shape)}."
            )


def _row_norms(noise: Tensor) -> Tensor:
    """(B, 1, 1, 1) norms of the rows, never quite zero."""
    return noise.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
