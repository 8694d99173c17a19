"""Pooled tokens: NPNets for wide text encoders and many channels stay small, and see no padding."""

import pytest
import torch

from golden.describe import describe_npnet
from golden.errors import InvalidInput
from golden.npnet import NPNet, NPNetConfig, SingularConfig, TextConfig, load_npnet, save_npnet
from golden.npnet.pooling import TokenPool
from train.network import make_npnet
from train.objectives import Sizes
from train.settings import Architecture

# Channels, latent height and width, tokens and their width.
SIZES = {
    "pixart-sigma": (4, 128, 128, 300, 4096),
    "sd3.5-large": (16, 128, 128, 333, 4096),
    "flux": (16, 128, 128, 512, 4096),
    "z-image": (16, 128, 128, 512, 2560),
    "qwen-image": (16, 128, 128, 512, 3584),
    "sana": (32, 32, 32, 300, 2304),
}


def tiny_config(**text: int) -> NPNetConfig:
    singular = SingularConfig(hidden=8, output_hidden=8, canonical_signs=True)
    return NPNetConfig(16, 8, 8, 20, 12, singular=singular, residual=None, text=TextConfig(**text))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("map_size", [1, 16])
def test_npnets_for_large_text_encoders_stay_small(name, map_size):
    with torch.device("meta"):
        network = NPNet(NPNetConfig(*SIZES[name], text=TextConfig(map_size, num_queries=8)))
    assert sum(value.numel() for value in network.parameters()) <= 60e6


@pytest.mark.parametrize("name", SIZES)
def test_what_is_trained_by_default_is_small_and_says_so(name):
    with torch.device("meta"):
        network = make_npnet(Architecture(), Sizes(*SIZES[name]))
    network.to_empty(device="cpu")  # numbers of parameters need no values
    lines = list(describe_npnet(network))
    (line,) = (line for line in lines if line.startswith("  all: "))
    assert int(line.removeprefix("  all: ").replace(",", "")) <= 60e6
    assert f"  channels: {SIZES[name][0]}" in lines
    assert network.config.text.num_queries > 0
    assert network.config.layout is None


def test_short_prompts_have_the_published_linear_and_small_latents_a_layout():
    with torch.device("meta"):
        config = make_npnet(Architecture(), Sizes(4, 16, 16, 24, 256)).config
        asked = make_npnet(Architecture(text_queries=3, layout_rank=0), Sizes(4, 16, 16, 24, 256)).config
    assert (config.text.num_queries, config.layout.rank) == (0, 256)
    assert (asked.text.num_queries, asked.layout) == (3, None)


def test_the_size_does_not_depend_on_the_number_of_tokens():
    torch.manual_seed(0)
    pool = TokenPool(12, 3, 5)
    assert pool(torch.randn(2, 4, 12)).shape == pool(torch.randn(2, 400, 12)).shape == (2, 15)


def test_tokens_of_zeros_are_not_seen():
    torch.manual_seed(0)
    pool, tokens = TokenPool(12, 3, 5), torch.randn(2, 7, 12)
    padded = torch.cat([tokens, torch.zeros(2, 9, 12)], 1)
    assert torch.allclose(pool(padded), pool(tokens), atol=1e-6)
    assert not torch.allclose(pool(padded + 0.01), pool(tokens), atol=1e-3)
    assert pool(torch.zeros(2, 7, 12)).isfinite().all()


def test_rows_do_not_see_each_other_and_every_token_counts():
    torch.manual_seed(0)
    network = NPNet(tiny_config(num_queries=3, query_width=8)).eval()
    with torch.no_grad():
        network.alpha.fill_(0.7)
        noise, embeds = torch.randn(2, 16, 8, 8), torch.randn(2, 20, 12)
        both = network(noise, embeds)
        assert torch.allclose(both[1:], network(noise[1:], embeds[1:]), atol=1e-5)
        changed = embeds.clone()
        changed[:, -1] *= -1
        assert not torch.allclose(both, network(noise, changed), atol=1e-4)


def test_a_pooling_npnet_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    network = NPNet(tiny_config(num_queries=3, query_width=8, map_size=4)).eval()
    torch.nn.init.constant_(network.alpha, 0.7)
    save_npnet(tmp_path / "npnet.safetensors", network)
    loaded = load_npnet(tmp_path / "npnet.safetensors")
    assert loaded.config == network.config
    noise, embeds = torch.randn(2, 16, 8, 8), torch.randn(2, 20, 12)
    with torch.no_grad():
        assert torch.allclose(loaded(noise, embeds), network(noise, embeds), atol=1e-5)


@pytest.mark.parametrize("value", [-1, 65, 1.0, True, False, None, "8"])
def test_a_number_of_queries_that_is_none_is_refused(value):
    with pytest.raises(InvalidInput, match="num_queries must be a whole number"):
        TextConfig(num_queries=value)
