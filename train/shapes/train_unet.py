"""Train the embedded model's UNet on latents of rendered scenes, and assemble the whole pipeline folder.

    python train/shapes/train_unet.py --cache     # once: captions, embeddings and latents, about 1 GB in runs/latents
    python train/shapes/train_unet.py

SDXL's noise schedule and epsilon prediction. Steps are drawn more often where the layout of a picture is decided
(high noise), which an even draw leaves to a small part of the loss.
"""

import json
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import trange
from training import MODEL_FOLDER, RUNS, rng_for, train
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from golden.errors import ArgumentParser, run_command
from golden.files import atomic_path
from golden.pipelines import images_to_pixels
from golden.shapes import parse_caption, render, sample_scene, training_captions

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
MAX_FILE_SIZE = "9MB"
UNCONDITIONAL_SHARE = 0.1
CACHE = RUNS / "latents"


def save_pipeline(unet: UNet2DConditionModel) -> None:
    """Write the folder that `StableDiffusionXLPipeline.from_pretrained` loads, in half precision."""
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(MODEL_FOLDER / "vae", dtype=torch.float16),
        text_encoder=CLIPTextModel.from_pretrained(MODEL_FOLDER / "text_encoder", dtype=torch.float16),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(
            MODEL_FOLDER / "text_encoder_2", dtype=torch.float16
        ),
        tokenizer=CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer_2"),
        unet=unet.half(),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(MODEL_FOLDER, max_shard_size=MAX_FILE_SIZE)
    for name in ("text_encoder", "text_encoder_2"):
        # Or a plain from_pretrained would load these alone in half precision, and fail beside a UNet in full.
        config = MODEL_FOLDER / name / "config.json"
        config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    config = MODEL_FOLDER / "vae" / "config.json"  # diffusers notes where it was loaded from
    kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2) + "\n")


@torch.inference_mode()
def encode_captions(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Token states (B, 20, 256) and pooled embeddings (B, 160), as the SDXL pipeline makes them."""
    tokenizer = CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer")
    first = CLIPTextModel.from_pretrained(MODEL_FOLDER / "text_encoder", dtype=torch.float32)
    second = CLIPTextModelWithProjection.from_pretrained(MODEL_FOLDER / "text_encoder_2", dtype=torch.float32)
    states, pooled = [], []
    for start in trange(0, len(captions), 500, desc="captions"):
        batch = captions[start : start + 500]
        tokens = tokenizer(batch, padding="max_length", truncation=True, return_tensors="pt").input_ids
        one, two = first(tokens, output_hidden_states=True), second(tokens, output_hidden_states=True)
        states.append(torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1).half())
        pooled.append(two.text_embeds.half())
    return torch.cat(states), torch.cat(pooled)


@torch.inference_mode()
def make_cache(num_captions: int, pictures_per_caption: int, seed: int) -> None:
    """Render and encode the training set once: the autoencoder costs more than a UNet step."""
    rng = rng_for(seed, 0)
    captions = [caption for caption, _ in zip(training_captions(rng), range(num_captions))]  # noqa: B905
    vae = AutoencoderKL.from_pretrained(MODEL_FOLDER / "vae", dtype=torch.float32)
    latents = []
    for start in trange(0, num_captions, 50, desc="pictures"):
        requests = [parse_caption(caption) for caption in captions[start : start + 50]]
        pictures = [render(sample_scene(r, rng)) for r in requests for _ in range(pictures_per_caption)]
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images_to_pixels(pictures)).latent_dist
        sample = posterior.mode().float() * vae.config.scaling_factor
        latents.append(sample.half().unflatten(0, (-1, pictures_per_caption)))
    states, pooled = encode_captions(captions)
    with atomic_path(CACHE / "latents.pt") as temporary:
        torch.save({"latents": torch.cat(latents), "states": states, "pooled": pooled}, temporary)
    with atomic_path(CACHE / "captions.json") as temporary:
        temporary.write_text(json.dumps(captions))


def sample_timesteps(rng: np.random.Generator, num: int) -> Tensor:
    """Timesteps 0..999: half of them even, half centred on 700, where SNR is about 0.03 to 0.3."""
    even = rng.integers(0, 1000, num)
    layout = np.clip(rng.normal(700, 150, num), 0, 999).astype(np.int64)
    return torch.from_numpy(np.where(rng.random(num) < 0.5, even, layout))


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", action="store_true", help="make the cached training set and stop")
    parser.add_argument("--assemble", action="store_true", help="write the pipeline from the last checkpoint and stop")
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet (needs a C++ compiler)")
    parser.add_argument("--num-captions", type=int, default=16000)
    parser.add_argument("--pictures-per-caption", type=int, default=2)
    parser.add_argument("--num-steps", type=int, default=7500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.cache:
        return make_cache(arguments.num_captions, arguments.pictures_per_caption, arguments.seed)
    if arguments.assemble:
        averaged = torch.load(RUNS / "unet" / "checkpoint.pt", weights_only=True)["ema"]
        averaged.pop("n_averaged")
        unet = UNet2DConditionModel(**CONFIG)
        unet.load_state_dict({key.removeprefix("module."): value for key, value in averaged.items()})
        return save_pipeline(unet)
    data = torch.load(CACHE / "latents.pt", weights_only=True, mmap=True)
    torch.manual_seed(arguments.seed)
    unet = UNet2DConditionModel(**CONFIG)
    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters")
    predict = torch.compile(unet) if arguments.compile else unet
    betas = torch.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, 1000) ** 2
    signal = (1 - betas).cumprod(0)
    time_ids = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]]).expand(arguments.batch_size, -1)

    def compute_loss(step: int) -> Tensor:
        rng = rng_for(arguments.seed, step + 1)
        rows = torch.from_numpy(rng.integers(0, len(data["states"]), arguments.batch_size))
        pictures = torch.from_numpy(rng.integers(0, data["latents"].shape[1], arguments.batch_size))
        latents = data["latents"][rows, pictures].float()
        keep = torch.from_numpy(rng.random(arguments.batch_size) >= UNCONDITIONAL_SHARE).float()
        states = data["states"][rows].float() * keep[:, None, None]
        pooled = data["pooled"][rows].float() * keep[:, None]
        timesteps = sample_timesteps(rng, arguments.batch_size)
        noise = torch.randn_like(latents)
        alpha = signal[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        # The fused attention kernel's backward pass is slow on CPUs here: plain attention trains 1.5 x faster.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            predicted = predict(noisy, timesteps, states, added_cond_kwargs=conditions, return_dict=False)[0]
        return nn.functional.mse_loss(predicted.float(), noise)

    ema = train(
        "unet",
        unet,
        compute_loss,
        num_steps=arguments.num_steps,
        learning_rate=arguments.learning_rate,
        num_warmup=300,
        weight_decay=0.01,
        ema_decay=0.999,
        save_every=500,
    )
    save_pipeline(ema)


if __name__ == "__main__":
    run_command(main)
