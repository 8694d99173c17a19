"""Tiny random-weight pipelines of the newer families: name of the family -> function that makes one.

As for those in conftest.py, latents are (channels, SIZE, SIZE) and images 8 times as large.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import transformers
from diffusers import AutoencoderDC, AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler
from tokenizers import pre_tokenizers

SIZE = 8
EMBEDDING_DIM = 32

FLUX_SCHEDULE = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
QWEN_SCHEDULE = FLUX_SCHEDULE | {"shift": 1.0, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02}
SANA_SCHEDULE = {
    "algorithm_type": "dpmsolver++",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
_LAYERS: dict[str, Any] = {
    "hidden_size": EMBEDDING_DIM,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def make_vae(**settings: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=SIZE * 8,
        mid_block_add_attention=False,
        force_upcast=False,
        **{"latent_channels": 4, "scaling_factor": 0.5} | settings,
    )


def make_clip_tokenizer(max_length: int) -> transformers.CLIPTokenizer:
    """Every byte is a token, as in CLIP's own, and no two are ever merged."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=max_length)


def make_clip_config(
    tokenizer: transformers.CLIPTokenizer, hidden_size: int = EMBEDDING_DIM // 2
) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        projection_dim=EMBEDDING_DIM // 2,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_t5_tokenizer(max_length: int) -> transformers.T5Tokenizer:
    """Every letter is a token."""
    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    return transformers.T5Tokenizer(
        vocab=[(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")] + [(piece, -2.0) for piece in pieces],
        extra_ids=0,
        model_max_length=max_length,
    )


def make_t5_config(tokenizer: transformers.T5Tokenizer) -> transformers.T5Config:
    return transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=EMBEDDING_DIM,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        is_encoder_decoder=False,
    )


def _qwen_tokenizer() -> transformers.Qwen2Tokenizer:
    """Every byte is a token."""
    letters = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    return transformers.Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        chat_template="{% for message in messages %}<user>{{ message.content }}<end>{% endfor %}<answer>",
    )


def make_flux() -> diffusers.FluxPipeline:
    """FLUX.1-dev: its network takes a guidance scale."""
    clip_tokenizer, t5_tokenizer = make_clip_tokenizer(77), make_t5_tokenizer(512)
    return diffusers.FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULE),
        vae=make_vae(latent_channels=16, shift_factor=0.1),
        text_encoder=transformers.CLIPTextModel(make_clip_config(clip_tokenizer)),
        tokenizer=clip_tokenizer,
        text_encoder_2=transformers.T5EncoderModel(make_t5_config(t5_tokenizer)),
        tokenizer_2=t5_tokenizer,
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=EMBEDDING_DIM,
            pooled_projection_dim=EMBEDDING_DIM // 2,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
    )


def make_flux2_klein() -> diffusers.Flux2KleinPipeline:
    """Its embeddings are three layers of the language model, the 9th, 18th and 27th, side by side."""
    tokenizer = _qwen_tokenizer()
    layers = _LAYERS | {"hidden_size": 16, "num_hidden_layers": 27}
    config = transformers.Qwen3Config(**layers, vocab_size=len(tokenizer), head_dim=8, max_position_embeddings=512)
    vae = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=SIZE * 8,
        mid_block_add_attention=False,
        latent_channels=4,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return diffusers.Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULE),
        vae=vae,
        text_encoder=transformers.Qwen3ForCausalLM(config),
        tokenizer=tokenizer,
        transformer=diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * 16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
    )


def make_z_image() -> diffusers.ZImagePipeline:
    tokenizer = _qwen_tokenizer()
    config = transformers.Qwen3Config(**_LAYERS, vocab_size=len(tokenizer), head_dim=16, max_position_embeddings=512)
    transformer = diffusers.ZImageTransformer2DModel(
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=EMBEDDING_DIM,
        axes_dims=[4, 6, 6],
    )
    transformer.x_pad_token.data.normal_()
    transformer.cap_pad_token.data.normal_()
    return diffusers.ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=make_vae(latent_channels=16, shift_factor=0.1),
        text_encoder=transformers.Qwen3Model(config),
        tokenizer=tokenizer,
        transformer=transformer,
    )


def make_qwen_image() -> diffusers.QwenImagePipeline:
    tokenizer = _qwen_tokenizer()
    text = {**_LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": 1100}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": EMBEDDING_DIM}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return diffusers.QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**QWEN_SCHEDULE),
        vae=AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=64,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=EMBEDDING_DIM,
            axes_dims_rope=(4, 6, 6),
        ),
    )


def make_sana() -> diffusers.SanaPipeline:
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = transformers.GemmaTokenizer(vocab={letter: index for index, letter in enumerate(letters)}, merges=[])
    layers = _LAYERS | {"num_hidden_layers": 1}  # the pipeline's instruction has 3,000 letters
    config = transformers.Gemma2Config(
        **layers, vocab_size=len(tokenizer), head_dim=16, max_position_embeddings=4096, attn_implementation="eager"
    )
    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("block_out_channels", (8, 16, 32, 32)),
            ("layers_per_block", (1, 1, 1, 1)),
            ("qkv_multiscales", ((), (), (), ())),
        )
    }
    return diffusers.SanaPipeline(
        scheduler=diffusers.DPMSolverMultistepScheduler(**SANA_SCHEDULE),
        vae=AutoencoderDC(**sizes, latent_channels=32, scaling_factor=0.4),
        text_encoder=transformers.Gemma2Model(config),
        tokenizer=tokenizer,
        transformer=diffusers.SanaTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=EMBEDDING_DIM,
            sample_size=SIZE,
        ),
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "flux": make_flux,
    "flux2-klein": make_flux2_klein,
    "z-image": make_z_image,
    "qwen-image": make_qwen_image,
    "sana": make_sana,
}
