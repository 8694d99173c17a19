"""Train the embedded model's autoencoder: 3x128x128 pictures to 4x16x16 latents and back.

python train/shapes/train_vae.py
python train/shapes/train_vae.py --finetune vae_2 --num-steps 700 --learning-rate 6e-4
python train/shapes/train_vae.py --finetune vae_decoder --decoder-only --num-steps 1500 --learning-rate 5e-4
"""

import torch
from diffusers import AutoencoderKL
from training import MODEL_FOLDER, RUNS, log, rng_for, train

from golden.errors import ArgumentParser, run_command
from golden.pipelines import images_to_pixels, pixels_to_images
from golden.shapes import check_image, parse_caption, render, sample_caption, sample_scene

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


def sample_pictures(seed: int, step: int, num_pictures: int) -> tuple[list, list]:
    """Requests and pictures of one training step."""
    rng = rng_for(seed, step)
    requests = [parse_caption(sample_caption(rng)) for _ in range(num_pictures)]
    return requests, [render(sample_scene(request, rng)) for request in requests]


def share_right_after_reconstruction(vae: AutoencoderKL, num_pictures: int = 500, seed: int = 10**6) -> float:
    """Share of fresh pictures that the checker still passes after encoding and decoding."""
    requests, pictures = sample_pictures(seed, 0, num_pictures)
    num_right = 0
    with torch.inference_mode():
        for start in range(0, num_pictures, 50):
            pixels = images_to_pixels(pictures[start : start + 50])
            decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
            for request, image in zip(requests[start:], pixels_to_images(decoded), strict=False):
                num_right += check_image(request, image).correct
    return num_right / num_pictures


def latent_scale(vae: AutoencoderKL) -> float:
    """1 / std of the latents of 500 pictures: SDXL's `scaling_factor`, which makes their variance one."""
    _, pictures = sample_pictures(2 * 10**6, 0, 500)
    with torch.inference_mode():
        latents = torch.cat(
            [vae.encode(images_to_pixels(pictures[i : i + 50])).latent_dist.sample() for i in range(0, 500, 50)]
        )
    return 1 / latents.std().item()


def check_saved() -> dict:
    """Figures of the embedded autoencoder, as it is loaded."""
    saved = AutoencoderKL.from_pretrained(MODEL_FOLDER / "vae", dtype=torch.float32)
    return {"final": share_right_after_reconstruction(saved, 2000), "scaling_factor": saved.config.scaling_factor}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--num-steps", type=int, default=1400)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--finetune", metavar="RUN", help="go on from the saved autoencoder, as a run of this name")
    parser.add_argument("--decoder-only", action="store_true", help="leave the latents as they are")
    parser.add_argument("--check", action="store_true", help="train nothing: check 2,000 pictures of the embedded one")
    arguments = parser.parse_args()
    if arguments.check:
        print(check_saved())
        return
    torch.manual_seed(arguments.seed)
    vae = AutoencoderKL(**CONFIG)
    if arguments.finetune:
        vae = AutoencoderKL.from_pretrained(MODEL_FOLDER / "vae", dtype=torch.float32).train()
    if arguments.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def compute_loss(step: int) -> torch.Tensor:
        _, pictures = sample_pictures(arguments.seed, step, arguments.batch_size)
        pixels = images_to_pixels(pictures)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        error = decoded - pixels
        return error.abs().mean() + 2 * error.square().mean() + KL_WEIGHT * kl

    def evaluate(ema: torch.nn.Module, step: int) -> dict:
        return {"right_after_reconstruction": share_right_after_reconstruction(ema)}

    vae = train(
        arguments.finetune or "vae",
        vae,
        compute_loss,
        num_steps=arguments.num_steps,
        learning_rate=arguments.learning_rate,
        ema_decay=0.995,
        save_every=100,
        evaluate=evaluate,
        evaluate_every=500,
    )
    if not arguments.decoder_only:
        vae.register_to_config(scaling_factor=latent_scale(vae))
    vae.half().save_pretrained(MODEL_FOLDER / "vae")
    log(RUNS / (arguments.finetune or "vae") / "log.jsonl", check_saved())


if __name__ == "__main__":
    run_command(main)
