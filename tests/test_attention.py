"""The attention kernel changes time, not results."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from golden.attention import plain_attention


@pytest.mark.parametrize("grad", [True, False])
def test_plain_attention_says_the_same_and_is_used_for_gradients_alone(grad):
    query, key, value = (torch.randn(2, 4, 9, 16, requires_grad=grad) for _ in range(3))
    expected = scaled_dot_product_attention(query, key, value)
    with torch.set_grad_enabled(grad), plain_attention(query):
        assert torch.backends.cuda.flash_sdp_enabled() is not grad
        assert torch.allclose(scaled_dot_product_attention(query, key, value), expected, atol=1e-6)
    assert torch.backends.cuda.flash_sdp_enabled()
