"""Which attention kernel torch uses."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def plain_attention(tensor: Tensor) -> AbstractContextManager:
    """On CPUs the fused attention kernel's backward pass is slow: plain attention is 1.5 x faster with gradients."""
    if tensor.device.type == "cpu" and torch.is_grad_enabled():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
