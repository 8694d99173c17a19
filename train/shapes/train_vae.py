"""Train the embedded model's autoencoder: 3x128x128 images to 4x16x16 latents and back.

python train/shapes/train_vae.py
python train/shapes/train_vae.py --finetune vae_2 --num-steps 700 --learning-rate 6e-4
python train/shapes/train_vae.py --finetune vae_decoder --decoder-only --num-steps 1500 --learning-rate 5e-4
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from PIL import Image

from golden.errors import ArgumentParser, run_command
from golden.flags import add_flags, flag, read_flags
from golden.pipelines import images_to_pixels, pixels_to_images
from golden.shapes import Request, check_image, parse_caption, render, sample_caption, sample_scene
from train.shapes.training import MODEL_FOLDER, RUNS, TrainingPlan, log, rng_for, train

CONFIG = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(16, 32, 64, 96),
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=8,
    sample_size=128,
    mid_block_add_attention=False,
    force_upcast=False,
)
# Keeps latents near a unit Gaussian and the decoder forgiving of small errors in them, at no visible cost in sharpness.
KL_WEIGHT = 1e-3


@dataclass(frozen=True)
class AutoencoderOptions:
    """What to train, and for how long."""

    num_steps: int = flag(1400, "training steps")
    batch_size: int = flag(16, "images per step")
    learning_rate: float = flag(1.5e-3, "highest learning rate of the cosine schedule")
    seed: int = flag(1, "seed of the weights and of every batch")
    finetune: str | None = flag(None, "continue from the saved autoencoder, as a run of this name", metavar="RUN")
    decoder_only: bool = flag(False, "train the decoder alone, which leaves the latents as they are")
    check: bool = flag(False, "do not train: check 2,000 images that the embedded autoencoder reconstructs")

    @property
    def run(self) -> str:
        return self.finetune or "vae"


def render_batch(seed: int, step: int, num_images: int) -> tuple[list[Request], list[Image.Image]]:
    """Requests and rendered images of one training step; nothing is held out from what reads no captions."""
    rng = rng_for(seed, step)
    requests = [parse_caption(sample_caption(rng)) for _ in range(num_images)]
    return requests, [render(sample_scene(request, rng)) for request in requests]


def share_right_after_reconstruction(vae: AutoencoderKL, num_images: int = 500, seed: int = 10**6) -> float:
    """Share of fresh images that the checker still passes after encoding and decoding."""
    requests, images = render_batch(seed, 0, num_images)
    num_right = 0
    with torch.inference_mode():
        for start in range(0, num_images, 50):
            pixels = images_to_pixels(images[start : start + 50])
            decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
            for request, image in zip(requests[start:], pixels_to_images(decoded), strict=False):
                num_right += check_image(request, image).correct
    return num_right / num_images


def latent_scale(vae: AutoencoderKL) -> float:
    """1 / std of the latents of 500 images: SDXL's `scaling_factor`, which makes their variance one."""
    _, images = render_batch(2 * 10**6, 0, 500)
    with torch.inference_mode():
        latents = torch.cat(
            [vae.encode(images_to_pixels(images[i : i + 50])).latent_dist.sample() for i in range(0, 500, 50)]
        )
    return 1 / latents.std().item()


def check_saved() -> dict:
    """Figures of the embedded autoencoder, as it is loaded."""
    saved = AutoencoderKL.from_pretrained(MODEL_FOLDER / "vae", dtype=torch.float32)
    return {"final": share_right_after_reconstruction(saved, 2000), "scaling_factor": saved.config.scaling_factor}


def train_vae(options: AutoencoderOptions) -> AutoencoderKL:
    """The trained autoencoder, in eval mode."""
    torch.manual_seed(options.seed)
    vae = AutoencoderKL(**CONFIG)
    if options.finetune:
        vae = AutoencoderKL.from_pretrained(MODEL_FOLDER / "vae", dtype=torch.float32).train()
    if options.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def compute_loss(step: int) -> torch.Tensor:
        _, images = render_batch(options.seed, step, options.batch_size)
        pixels = images_to_pixels(images)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        error = decoded - pixels
        return error.abs().mean() + 2 * error.square().mean() + KL_WEIGHT * kl

    def evaluate(ema: torch.nn.Module, step: int) -> dict:
        return {"right_after_reconstruction": share_right_after_reconstruction(ema)}

    plan = TrainingPlan(options.num_steps, options.learning_rate, ema_decay=0.995, save_every=100, evaluate_every=500)
    return train(options.run, vae, compute_loss, plan, evaluate)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description="Train the embedded model's autoencoder.")
    add_flags(parser, AutoencoderOptions)
    options = read_flags(AutoencoderOptions, parser.parse_args(argv))
    if options.check:
        print(check_saved())
        return
    vae = train_vae(options)
    if not options.decoder_only:
        vae.register_to_config(scaling_factor=latent_scale(vae))
    vae.half().save_pretrained(MODEL_FOLDER / "vae")
    log(RUNS / options.run / "log.jsonl", check_saved())


if __name__ == "__main__":
    run_command(main)
