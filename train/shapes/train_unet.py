"""Train the embedded model's UNet on latents of rendered scenes, and assemble the whole pipeline folder.

    python train/shapes/train_unet.py --cache     # once: captions and latents of them, in runs/latents
    python train/shapes/train_unet.py --states    # once, with the text encoders: embeddings of these captions
    python train/shapes/train_unet.py --decay-steps 6000

The learning rate is constant, so that training can be continued in another run with more steps; the last steps of the
last run decay it to 0:

    python train/shapes/train_unet.py --num-steps 30000
    python train/shapes/train_unet.py --num-steps 60000 --decay-steps 6000

On a CPU, workers of one thread each are faster than one of several: torchrun --nproc-per-node 2 train/shapes/...

SDXL's noise schedule and epsilon prediction. Timesteps are drawn more often where the layout of an image is decided
(high noise), which an even draw leaves to a small part of the loss.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from tqdm import trange
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from golden.attention import plain_attention
from golden.errors import ArgumentParser, run_command
from golden.files import atomic_path, write_bytes
from golden.flags import add_flags, flag, read_flags
from golden.model import pick_device
from golden.pipelines import images_to_pixels
from golden.shapes import Request, parse_caption, render, sample_captions, sample_scene
from golden.shapes.grammar import OPPOSITES
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
from train.shapes.training import MODEL_FOLDER, load_averaged, rng_for, train
from train.workers import join_workers, own_share

CONFIG = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    mid_block_type="UNetMidBlock2DCrossAttn",
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(64, 128),
    layers_per_block=1,
    transformer_layers_per_block=1,
    attention_head_dim=(2, 4),  # diffusers' name for the number of heads
    cross_attention_dim=256,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=16,
    projection_class_embeddings_input_dim=160 + 6 * 16,
)
SCHEDULER: dict[str, Any] = dict(  # stabilityai/stable-diffusion-xl-base-1.0, scheduler/scheduler_config.json
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="epsilon",
    timestep_spacing="leading",
    steps_offset=1,
    interpolation_type="linear",
)


@dataclass(frozen=True)
class UNetOptions(DenoiserOptions):
    """What to do, and how long to train."""

    cache: bool = flag(False, "render and encode the images of the training set and stop")
    num_captions: int = flag(25000, "captions in the cached training set")
    images_per_caption: int = flag(2, "rendered images of each of them")
    misread_share: float = flag(
        0.0, "with --cache: how often an image has sides or colours swapped, or an object too few"
    )


# --- the pipeline folder ----------------------------------------------------------------------------------------------


def make_pipeline(unet: UNet2DConditionModel, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """The pipeline of a UNet and of the parts that are in MODEL_FOLDER already."""
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(MODEL_FOLDER / "vae", dtype=dtype),
        text_encoder=CLIPTextModel.from_pretrained(MODEL_FOLDER / "text_encoder", dtype=dtype),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(MODEL_FOLDER / "text_encoder_2", dtype=dtype),
        tokenizer=CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer_2"),
        unet=unet.to(dtype),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def save_pipeline(unet: UNet2DConditionModel) -> None:
    """Write the folder that `StableDiffusionXLPipeline.from_pretrained` loads, in half precision."""
    make_pipeline(unet, torch.float16).save_pretrained(MODEL_FOLDER, max_shard_size=MAX_FILE_SIZE)
    tidy_folder(MODEL_FOLDER)


# --- the cached training set ------------------------------------------------------------------------------------------


@torch.inference_mode()
def encode_captions(captions: list[str], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Token states (B, tokens, 256) and pooled embeddings (B, 160), as the SDXL pipeline makes them, on the CPU."""
    tokenizer = CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer")
    first = CLIPTextModel.from_pretrained(MODEL_FOLDER / "text_encoder", dtype=torch.float32).to(device)
    second = CLIPTextModelWithProjection.from_pretrained(MODEL_FOLDER / "text_encoder_2", dtype=torch.float32)
    second.to(device)
    states, pooled = [], []
    for start in trange(0, len(captions), 500, desc="captions"):
        batch = captions[start : start + 500]
        tokens = tokenizer(batch, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        one, two = first(tokens, output_hidden_states=True), second(tokens, output_hidden_states=True)
        states.append(torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1).half().cpu())
        pooled.append(two.text_embeds.half().cpu())
    return torch.cat(states), torch.cat(pooled)


def misread(request: Request, share: float, rng: np.random.Generator) -> Request:
    """What an image shows whose caption is as unreliable as the web's: each relation, each number, the colours of two
    objects and the presence of the second of a pair are wrong with probability `share`, always in the same way.

    How often a model that is trained on these images fails, by share and by guidance, is in train/shapes/README.md.
    """

    def is_wrong() -> bool:
        return rng.random() < share

    relations = tuple(OPPOSITES[name] if is_wrong() else name for name in request.relations)
    groups = [replace(group, count=group.count - (group.count > 1 and is_wrong())) for group in request.groups]
    if len(groups) > 1 and is_wrong():
        first, second = groups[0].colour, groups[1].colour
        groups[:2] = replace(groups[0], colour=second), replace(groups[1], colour=first)
    if request.category in ("two_object", "color_attr") and is_wrong():
        groups.pop()
    return replace(request, groups=tuple(groups), relations=relations)


@torch.inference_mode()
def make_cache(options: UNetOptions) -> None:
    """Render and encode the training set once: the autoencoder costs more than a UNet step."""
    device = pick_device(options.device)
    rng = rng_for(options.seed, 0)
    captions = list(islice(sample_captions(rng), options.num_captions))
    vae = AutoencoderKL.from_pretrained(MODEL_FOLDER / "vae", dtype=torch.float32).to(device)
    latents = []
    for start in trange(0, len(captions), 50, desc="images"):
        requests = [parse_caption(caption) for caption in captions[start : start + 50]]
        shown = [misread(r, options.misread_share, rng) for r in requests for _ in range(options.images_per_caption)]
        images = [render(sample_scene(request, rng)) for request in shown]
        with torch.autocast(vae.device.type, torch.bfloat16):
            posterior = vae.encode(images_to_pixels(images).to(device)).latent_dist
        sample = posterior.mode().float() * vae.config.scaling_factor
        latents.append(sample.half().cpu().unflatten(0, (-1, options.images_per_caption)))
    with atomic_path(denoisers.CACHE / "latents.pt") as temporary:
        torch.save({"latents": torch.cat(latents)}, temporary)
    write_bytes(denoisers.CACHE / "captions.json", json.dumps(captions).encode())


def make_states(device: str = "cpu") -> None:
    """Encode the captions of the cached training set. Raises: MissingWeights if there is none."""
    states, pooled = encode_captions(load_captions(), device)
    with atomic_path(denoisers.CACHE / "states.pt") as temporary:
        torch.save({"states": states, "pooled": pooled}, temporary)


# --- training ---------------------------------------------------------------------------------------------------------


def sample_timesteps(rng: np.random.Generator, num: int) -> Tensor:
    """Timesteps 0..999: half of them even, half centred on 700, where SNR is about 0.03 to 0.3."""
    even = rng.integers(0, 1000, num)
    layout = np.clip(rng.normal(700, 150, num), 0, 999).astype(np.int64)
    return torch.from_numpy(np.where(rng.random(num) < 0.5, even, layout))


def make_signal() -> Tensor:
    """The squared weight of the image in noisy latents (1000,), by timestep; that of the noise is the rest to 1."""
    betas = torch.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, 1000) ** 2
    return (1 - betas).cumprod(0)


def add_conditions(pooled: Tensor) -> dict[str, Tensor]:
    """SDXL's conditions beside the token states: pooled embeddings (B, 160), and the size of the image."""
    time_ids = pooled.new_tensor([128.0, 128.0, 0.0, 0.0, 128.0, 128.0]).expand(len(pooled), -1)
    return {"text_embeds": pooled, "time_ids": time_ids}


def make_loss(
    predict: Callable[..., Any], data: dict[str, Tensor], seed: int, batch_size: int, device: str = "cpu"
) -> Callable[[int], Tensor]:
    """The loss of a step: squared error of the predicted noise. A batch is the same on every device."""
    signal = make_signal()
    share = own_share(batch_size)

    def compute_loss(step: int) -> Tensor:
        rng = rng_for(seed, step + 1)
        rows, latents = draw_latents(data, rng, batch_size, share)
        keep = torch.from_numpy(rng.random(batch_size) >= UNCONDITIONAL_SHARE).float()[share]
        states = data["states"][rows].float() * keep[:, None, None]
        pooled = data["pooled"][rows].float() * keep[:, None]
        timesteps = sample_timesteps(rng, batch_size)[share]
        noise = torch.randn(batch_size, *latents.shape[1:])[share]
        alpha = signal[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        noisy, noise, timesteps, states, pooled = (x.to(device) for x in (noisy, noise, timesteps, states, pooled))
        conditions = add_conditions(pooled)
        with torch.autocast(noisy.device.type, torch.bfloat16), plain_attention(noisy):
            predicted = predict(noisy, timesteps, states, added_cond_kwargs=conditions, return_dict=False)[0]
        return nn.functional.mse_loss(predicted.float(), noise)

    return compute_loss


def train_unet(options: UNetOptions) -> UNet2DConditionModel:
    """The trained UNet, in eval mode."""
    torch.manual_seed(options.seed)
    device = pick_device(options.device)
    unet = UNet2DConditionModel(**CONFIG)
    if options.start:
        unet.load_state_dict(UNet2DConditionModel.from_pretrained(options.start, dtype=torch.float32).state_dict())
    unet.to(device)
    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters")
    predict = torch.compile(unet) if options.compile else unet
    captions = sample_held_out(options.num_evaluated)

    def evaluate(ema: Any, step: int) -> dict:
        return count_right(make_pipeline(ema, torch.float32).to(device), captions)

    compute_loss = make_loss(predict, load_cache("states.pt", "--states"), options.seed, options.batch_size, device)
    return train("unet", unet, compute_loss, options.plan(), evaluate)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Train the embedded model's UNet, and assemble its pipeline.")
    add_flags(parser, UNetOptions)
    options = read_flags(UNetOptions, parser.parse_args(argv))
    if options.cache:
        make_cache(options)
    elif options.states:
        make_states(pick_device(options.device))
    elif options.assemble:
        save_pipeline(load_averaged("unet", UNet2DConditionModel(**CONFIG)))
    else:
        unet = train_unet(options)
        if join_workers() == 0:
            save_pipeline(unet)


if __name__ == "__main__":
    run_command(main)
