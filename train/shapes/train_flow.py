"""Train the embedded flow model, a miniature of Stable Diffusion 3, and assemble its pipeline folder.

    python train/shapes/train_unet.py --cache     # once, as for the UNet: captions and latents, in runs/latents
    python train/shapes/train_flow.py --states    # once: embeddings of these captions as SD3's pipeline makes them
    python train/shapes/train_flow.py --teacher assets/shapes/model/unet

Autoencoder, tokenizers and text encoders are those of `shapes`, from the folder that SHAPES_MODEL names. Runs are
continued as train_unet.py says.

Rectified flow with logit-normal timesteps. Source: arXiv 2403.03206, sections 2 and 3.1.

One image says little of the velocity that is right for noise from which many could come: most of the loss is that they
differ. With `--teacher` the velocity is what the UNet expects, the mean over them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from tqdm import trange
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from golden.attention import plain_attention
from golden.errors import ArgumentParser, run_command
from golden.files import ASSETS, atomic_path
from golden.flags import add_flags, flag, read_flags
from golden.model import pick_device
from golden.models import Sampling
from train.shapes import denoisers
from train.shapes.denoisers import (
    MAX_FILE_SIZE,
    UNCONDITIONAL_SHARE,
    DenoiserOptions,
    draw_latents,
    load_cache,
    load_captions,
    tidy_folder,
)
from train.shapes.evaluation import count_right, sample_held_out
from train.shapes.train_unet import add_conditions, make_signal
from train.shapes.training import MODEL_FOLDER, load_averaged, rng_for, train
from train.workers import join_workers, own_share

FLOW_FOLDER = ASSETS / "shapes-flow" / "model"
CONFIG: dict[str, Any] = dict(
    sample_size=16,
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=6,
    attention_head_dim=32,
    num_attention_heads=6,
    joint_attention_dim=256,  # the two text encoders side by side, 96 + 160: SD3's pipeline pads them to this
    caption_projection_dim=192,
    pooled_projection_dim=256,
    pos_embed_max_size=16,
    qk_norm="rms_norm",
)
# SD3's shift of 3 is for 4,096 tokens. These images have 64, but their layout is decided as early, at high noise.
SCHEDULER: dict[str, Any] = dict(num_train_timesteps=1000, shift=2.0)
SAMPLING = Sampling("flow_euler", num_inference_steps=20, guidance_scale=4.0)
PADDING = 256, 24
"""The zeros in the place of T5's tokens: the pipeline's default, and what golden/families/sd3.py asks for."""


@dataclass(frozen=True)
class FlowOptions(DenoiserOptions):
    """What to do, how long to train, and what to learn from."""

    teacher: Path | None = flag(None, "learn the velocities that a UNet's folder says, and not those to single images")


# --- the pipeline folder ----------------------------------------------------------------------------------------------


def make_pipeline(transformer: SD3Transformer2DModel, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """The pipeline of a transformer and of the parts that are in MODEL_FOLDER."""
    vae = AutoencoderKL.from_pretrained(MODEL_FOLDER / "vae", dtype=dtype)
    vae.register_to_config(shift_factor=0.0)  # SD3's pipeline adds it to latents
    second = CLIPTextModelWithProjection.from_pretrained(MODEL_FOLDER / "text_encoder_2", dtype=dtype)
    return StableDiffusion3Pipeline(
        transformer=transformer.to(dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=vae,
        text_encoder=add_projection(CLIPTextModel.from_pretrained(MODEL_FOLDER / "text_encoder", dtype=dtype)),
        tokenizer=CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer"),
        text_encoder_2=second,
        tokenizer_2=CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer_2"),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def add_projection(encoder: CLIPTextModel) -> CLIPTextModelWithProjection:
    """A text encoder with a projection that changes nothing: as in SD3, whose first encoder must have one."""
    projected = CLIPTextModelWithProjection(encoder.config)
    projected.text_model.load_state_dict(encoder.state_dict())
    nn.init.eye_(projected.text_projection.weight)
    return projected.to(encoder.dtype).eval()


def save_pipeline(transformer: SD3Transformer2DModel) -> None:
    """Write the folder that `StableDiffusion3Pipeline.from_pretrained` loads, in half precision."""
    make_pipeline(transformer, torch.float16).save_pretrained(FLOW_FOLDER, max_shard_size=MAX_FILE_SIZE)
    tidy_folder(FLOW_FOLDER)


@torch.inference_mode()
def make_states(device: str = "cpu") -> None:
    """Encode the captions of the cached training set, and "" after them. Raises: MissingWeights if there is none."""
    captions = [*load_captions(), ""]
    pipeline = make_pipeline(SD3Transformer2DModel(**CONFIG), torch.float32).to(device)
    states, pooled = [], []
    for start in trange(0, len(captions), 500, desc="captions"):
        batch = captions[start : start + 500]
        encoded = pipeline.encode_prompt(batch, None, None, do_classifier_free_guidance=False, max_sequence_length=0)
        states.append(encoded[0].half().cpu())
        pooled.append(encoded[2].half().cpu())
    with atomic_path(denoisers.CACHE / "flow_states.pt") as temporary:
        torch.save({"states": torch.cat(states), "pooled": torch.cat(pooled)}, temporary)


# --- padding for the price of one token -------------------------------------------------------------------------------


class PaddedAttention:
    """SD3's joint attention with a mask (B, 1, 1, keys) that is added to the logits.

    Text tokens have no positions, so that the pipeline's 256 zeros are the same at every layer, and take part in
    attention as one of them does with log(256) added to its logits. So one stands for all of them in training, which
    has a quarter of the tokens then.
    """

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        def split(projected: Tensor, norm: nn.Module | None) -> Tensor:
            heads = projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return heads if norm is None else norm(heads)

        query, key, value = (
            torch.cat([split(of_image(hidden_states), norm), split(of_text(encoder_hidden_states), text_norm)], 2)
            for of_image, norm, of_text, text_norm in (
                (attn.to_q, attn.norm_q, attn.add_q_proj, attn.norm_added_q),
                (attn.to_k, attn.norm_k, attn.add_k_proj, attn.norm_added_k),
                (attn.to_v, None, attn.add_v_proj, None),
            )
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask.to(query.dtype))
        image, text = (
            mixed.transpose(1, 2).flatten(2).split([hidden_states.shape[1], encoder_hidden_states.shape[1]], 1)
        )
        return attn.to_out[0](image), text if attn.context_pre_only else attn.to_add_out(text)


def mask_padding(num_padding: Tensor, num_tokens: int) -> Tensor:
    """What is added to the logits (B, 1, 1, num_tokens) where the last token stands for `num_padding` (B,) of them."""
    mask = torch.zeros(len(num_padding), 1, 1, num_tokens)
    mask[..., -1] = num_padding.float().log().clamp(min=-1e4).view(-1, 1, 1)
    return mask


# --- the teacher ------------------------------------------------------------------------------------------------------


class Teacher:
    """The velocities that a UNet of the shapes model says.

    Scaled to unit variance, the noisy latents of a flow are those of the UNet's own process where both have the same
    ratio of noise to image; the expected image is then the same, too.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.unet = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        self.unet.to(device)
        signal = make_signal()
        self.log_ratios = ((1 - signal) / signal).sqrt().log().numpy()  # of noise to image, by timestep

    def __call__(self, noisy: Tensor, sigmas: Tensor, states: Tensor, pooled: Tensor, conditional: Tensor) -> Tensor:
        """(B, 4, 16, 16): velocities at noise levels (B,), given captions where `conditional` (B,) is 1."""
        wanted = (sigmas / (1 - sigmas)).log().clamp(*map(float, self.log_ratios[[0, -1]]))
        between = np.interp(wanted.cpu().numpy(), self.log_ratios, np.arange(len(self.log_ratios)))
        ratio, sigma = wanted.exp().view(-1, 1, 1, 1), sigmas.view(-1, 1, 1, 1)
        scaled = noisy / ((1 - sigma) ** 2 + sigma**2).sqrt()
        # SDXL's pooled embeddings are those of the second text encoder, which stand last; both are 0 without a caption.
        seen = states * conditional.view(-1, 1, 1), pooled[:, -160:] * conditional.view(-1, 1)
        timesteps = torch.from_numpy(between).to(noisy)
        predicted = self.unet(scaled, timesteps, seen[0], added_cond_kwargs=add_conditions(seen[1]), return_dict=False)
        # With unit variance, the image has the weight 1 / sqrt(1 + ratio^2) and the noise `ratio` times that.
        image = scaled * (1 + ratio**2).sqrt() - ratio * predicted[0].float()
        return (noisy - image) / sigma


# --- training ---------------------------------------------------------------------------------------------------------


def make_loss(
    predict: Callable[..., Any],
    data: dict[str, Tensor],
    seed: int,
    batch_size: int,
    teacher: Teacher | None = None,
    device: str = "cpu",
) -> Callable[[int], Tensor]:
    """The loss of a step: squared error of the predicted velocity; it should be noise - latents, or the teacher's.

    A batch is the same on every device.
    """
    unconditional = len(data["states"]) - 1
    num_tokens = (CONFIG["sample_size"] // CONFIG["patch_size"]) ** 2 + data["states"].shape[1] + 1

    share = own_share(batch_size)

    def compute_loss(step: int) -> Tensor:
        rng = rng_for(seed, step + 1)
        rows, latents = draw_latents(data, rng, batch_size, share)
        rows[torch.from_numpy(rng.random(batch_size) < UNCONDITIONAL_SHARE)[share]] = unconditional
        states, pooled = data["states"][rows].float(), data["pooled"][rows].float()
        num_padding = torch.from_numpy(rng.choice(PADDING, batch_size))
        # Logit-normal, then shifted as the schedule of sampling is.
        logits = torch.from_numpy(rng.normal(math.log(SCHEDULER["shift"]), 1, batch_size)).float()
        sigmas = logits.sigmoid()[share]
        noise = torch.randn(batch_size, *latents.shape[1:])[share]
        mask = mask_padding(num_padding[share], num_tokens)
        conditional = (rows != unconditional).float()
        latents, noise, sigmas, states, pooled, mask, conditional = (
            part.to(device) for part in (latents, noise, sigmas, states, pooled, mask, conditional)
        )
        sigma = sigmas.view(-1, 1, 1, 1)
        noisy = (1 - sigma) * latents + sigma * noise
        with torch.autocast(noisy.device.type, torch.bfloat16), plain_attention(noisy):
            predicted = predict(
                hidden_states=noisy,
                timestep=sigmas * SCHEDULER["num_train_timesteps"],
                encoder_hidden_states=nn.functional.pad(states, (0, 0, 0, 1)),
                pooled_projections=pooled,
                joint_attention_kwargs={"attention_mask": mask},
                return_dict=False,
            )[0]
            velocity = noise - latents
            if teacher:
                velocity = teacher(noisy, sigmas, states, pooled, conditional)
        return nn.functional.mse_loss(predicted.float(), velocity)

    return compute_loss


def train_flow(options: FlowOptions) -> SD3Transformer2DModel:
    """The trained transformer, in eval mode."""
    torch.manual_seed(options.seed)
    device = pick_device(options.device)
    transformer = SD3Transformer2DModel(**CONFIG)
    if options.start:
        start = SD3Transformer2DModel.from_pretrained(options.start, dtype=torch.float32)
        transformer.load_state_dict(start.state_dict())
    transformer.to(device)
    own_processors = transformer.attn_processors
    transformer.set_attn_processor(PaddedAttention())
    print(f"{sum(p.numel() for p in transformer.parameters()) / 1e6:.2f} M parameters")
    predict = torch.compile(transformer) if options.compile else transformer
    captions = sample_held_out(options.num_evaluated)

    def evaluate(ema: Any, step: int) -> dict:
        ema.set_attn_processor(dict(own_processors))
        return count_right(make_pipeline(ema, torch.float32).to(device), captions, sampling=SAMPLING)

    data = load_cache("flow_states.pt", "--states")
    teacher = Teacher(options.teacher, device) if options.teacher else None
    compute_loss = make_loss(predict, data, options.seed, options.batch_size, teacher, device)
    averaged: Any = train("flow", transformer, compute_loss, options.plan(), evaluate)
    averaged.set_attn_processor(dict(own_processors))
    return averaged


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Train the embedded flow model's transformer, and assemble its pipeline.")
    add_flags(parser, FlowOptions)
    options = read_flags(FlowOptions, parser.parse_args(argv))
    if options.states:
        make_states(pick_device(options.device))
    elif options.assemble:
        save_pipeline(load_averaged("flow", SD3Transformer2DModel(**CONFIG)))
    else:
        transformer = train_flow(options)
        if join_workers() == 0:
            save_pipeline(transformer)


if __name__ == "__main__":
    run_command(main)
