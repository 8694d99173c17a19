"""The published models at full size with random weights, for benchmarks that download nothing.

Time and memory do not depend on the values of weights.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
import torch
import transformers

from golden.npnet import NPNet, NPNetConfig, ResidualConfig, SwinConfig
from golden.pipelines import Embeddings, latent_shape

# Source: the configurations in the published repositories, which golden.models.MODELS names.
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
}
CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
CLIP_G = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
DIT = {
    "sample_size": 128,
    "in_channels": 4,
    "patch_size": 2,
    "num_attention_heads": 16,
    "attention_head_dim": 88,
    "hidden_size": 1408,
    "num_layers": 40,
    "mlp_ratio": 4.3637,
    "cross_attention_dim": 1024,
    "cross_attention_dim_t5": 2048,
    "pooled_projection_dim": 1024,
    "use_style_cond_and_image_meta_size": False,
}
BERT = {
    "vocab_size": 47020,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
T5 = {
    "vocab_size": 250112,
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

# Changes for --tiny: the same parts at sizes for a trial on any machine.
TINY_VAE = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
TINY_UNET = {
    "block_out_channels": (32, 32, 64),
    "transformer_layers_per_block": (1, 1, 1),
    "attention_head_dim": (1, 2, 2),
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}
TINY_TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
TINY_CLIP = TINY_TEXT | {"num_attention_heads": 1, "projection_dim": 32, "bos_token_id": 1, "eos_token_id": 2}
TINY_DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "hidden_size": 32,
    "num_layers": 2,
    "cross_attention_dim": 64,
    "cross_attention_dim_t5": 32,
    "pooled_projection_dim": 32,
}
TINY_T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}


def build_sdxl(dtype: torch.dtype, tiny: bool = False, sample_size: int = 128) -> Any:
    """A StableDiffusionXLPipeline without tokenizers, on the CPU, for latents of sample_size x sample_size."""
    clip_l, clip_g = (config | (TINY_CLIP if tiny else {}) for config in (CLIP_L, CLIP_G))
    unet = UNET | (TINY_UNET if tiny else {}) | {"sample_size": sample_size}
    text, text_2 = (transformers.CLIPTextConfig(**config) for config in (clip_l, clip_g))
    return diffusers.StableDiffusionXLPipeline(
        vae=build_vae(dtype, tiny),
        text_encoder=fill(partial(transformers.CLIPTextModel, text), dtype),
        text_encoder_2=fill(partial(transformers.CLIPTextModelWithProjection, text_2), dtype),
        tokenizer=None,
        tokenizer_2=None,
        unet=fill(partial(diffusers.UNet2DConditionModel, **unet), dtype),
        scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def build_hunyuan(dtype: torch.dtype, tiny: bool = False, sample_size: int = 128) -> Any:
    """A HunyuanDiTPipeline without tokenizers, on the CPU, for latents of sample_size x sample_size."""
    dit = DIT | (TINY_DIT if tiny else {}) | {"sample_size": sample_size}
    bert = transformers.BertConfig(**(BERT | (TINY_TEXT | {"num_attention_heads": 1} if tiny else {})))
    t5 = transformers.T5Config(**(T5 | (TINY_T5 if tiny else {})))
    schedule = SCHEDULE | {"beta_end": 0.02, "prediction_type": "v_prediction", "steps_offset": 1}
    return diffusers.HunyuanDiTPipeline(
        vae=build_vae(dtype, tiny),
        text_encoder=fill(partial(transformers.BertModel, bert), dtype),
        tokenizer=None,
        text_encoder_2=fill(partial(transformers.T5EncoderModel, t5), dtype),
        tokenizer_2=None,
        transformer=fill(partial(diffusers.HunyuanDiT2DModel, **dit), dtype),
        scheduler=diffusers.DDPMScheduler(**schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


BUILDERS = {"sdxl": build_sdxl, "hunyuan-dit": build_hunyuan}


def build_vae(dtype: torch.dtype, tiny: bool) -> Any:
    return fill(partial(diffusers.AutoencoderKL, **(VAE | (TINY_VAE if tiny else {}))), dtype)


@torch.no_grad()
def fill(make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """A module on the CPU with small random weights, without the time and memory of its own initialisation."""
    with torch.device("meta"):
        module = make()
    module = torch.nn.Module.to(module, dtype)  # the method of diffusers warns about parts that it lacks
    module = module.to_empty(device="cpu").eval().requires_grad_(False)
    for value in module.parameters():
        value.normal_(0.0, (value[0].numel() if value.ndim > 1 else value.numel()) ** -0.5)
    for value in module.buffers():
        value.zero_()
    return module


def make_embeddings(pipeline: Any) -> Embeddings:
    """Random prompt embeddings for a pair, in the form that `encode_prompts` returns."""
    network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    config, generator = network.config, torch.Generator().manual_seed(0)
    prompt = (2, 77, config.cross_attention_dim)
    if hasattr(pipeline, "unet"):
        pooled = (2, pipeline.text_encoder_2.config.projection_dim)
        shapes = {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled}
        masks = {}
    else:
        shapes = {"prompt_embeds": prompt, "prompt_embeds_2": (2, 256, config.cross_attention_dim_t5)}
        masks = {"prompt_attention_mask": (2, 77), "prompt_attention_mask_2": (2, 256)}
    embeddings = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    embeddings |= {name: torch.ones(shape, dtype=torch.long) for name, shape in masks.items()}
    return embeddings | {f"negative_{name}": value.clone() for name, value in embeddings.items()}


def make_npnet(pipeline: Any, tiny: bool) -> NPNet:
    """An NPNet of the published sizes with random weights; with `tiny` a small one for the pipeline's latents."""
    config = NPNetConfig(embedding_dim=make_embeddings(pipeline)["prompt_embeds"].shape[-1])
    if tiny:
        _, height, width = latent_shape(pipeline)
        swin = SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(2, 4), window_size=2)
        config = replace(config, height=height, width=width, residual=ResidualConfig(swin=swin))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NPNet(config).eval().requires_grad_(False)
