"""What golden noise costs at full size: seconds, memory and the routes of the SVD, with random weights.

python eval/bench_full_size.py --model sdxl --device cuda

Time and memory do not depend on the values of weights, so that nothing is downloaded: the configurations below are
those of the published models. Prompt embeddings are random, too; text encoders take their memory and are not run.
"""

import json
import platform
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Not before this folder: its statistics.py would hide Python's own.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from statistics import median

import diffusers
import torch
import transformers
from torch import Tensor
from tqdm import tqdm

from golden.errors import ArgumentParser, GoldenError, InvalidInput, run_command
from golden.files import write_bytes
from golden.models import MODELS
from golden.noise import source_noise
from golden.npnet import NPNet, NPNetConfig, SwinConfig, decompose
from golden.pipelines import Embeddings, decode, denoise, latent_shape, spare_memory
from golden.sizes import predict_golden

WARM_UPS = 2
NUM_CALLS = 30  # of NPNet and of each route of the SVD

Seconds = list[float]

# --- the models -------------------------------------------------------------------------------------------------------

# Source: the configurations in the published repositories (MODELS says which).
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

# What --tiny makes of them: all their parts, for a trial on any machine.
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
    module = torch.nn.Module.to(module, dtype)  # diffusers' own warns of parts that it does not have
    module = module.to_empty(device="cpu").eval().requires_grad_(False)
    for value in module.parameters():
        value.normal_(0.0, (value[0].numel() if value.ndim > 1 else value.numel()) ** -0.5)
    for value in module.buffers():
        value.zero_()
    return module


def make_embeddings(pipeline: Any) -> Embeddings:
    """Random prompt embeddings of a pair, as `encode_prompts` would give them."""
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
        config = replace(config, height=height, width=width, swin=swin)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NPNet(config).eval().requires_grad_(False)


# --- measuring --------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds and peak memory on a device; off CUDA the peak is None."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        if self.is_cuda:
            torch.cuda.set_device(device)

    def time(self, work: Callable[[], Any]) -> float:
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    @contextmanager
    def peak(self) -> Iterator[dict[str, int | None]]:
        """What was allocated on the device at the most, as `bytes` when the block has ended."""
        seen: dict[str, int | None] = {"bytes": None}
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        yield seen
        if self.is_cuda:
            seen["bytes"] = torch.cuda.max_memory_allocated()

    def _wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()


def summarise(seconds: Seconds) -> dict[str, float]:
    return {"median": median(seconds), "fastest": min(seconds), "slowest": max(seconds)}


@torch.inference_mode()
def time_npnet(npnet: NPNet, shape: tuple[int, int, int], embeddings: Embeddings, clock: Clock) -> dict[str, float]:
    """Seconds of golden noise for one picture, from source noise on the CPU to golden noise on the CPU."""
    device = next(npnet.parameters()).device
    source, prompt_embeds = source_noise([0], shape), embeddings["prompt_embeds"][:1].to(device)

    def predict() -> None:
        predict_golden(npnet, source.to(device), prompt_embeds).cpu()

    return summarise([clock.time(predict) for _ in range(WARM_UPS + NUM_CALLS)][WARM_UPS:])


def time_pairs(
    pipeline: Any, embeddings: Embeddings, settings: Namespace, clock: Clock, batched: bool
) -> dict[str, Any]:
    """Seconds and peak memory of a pair of pictures, its denoising and its decoding, after a warm-up of two steps."""
    spec = MODELS[settings.model]
    shape = latent_shape(pipeline, settings.size, settings.size)
    noise, device = source_noise([0, 0], shape), pipeline._execution_device
    floats = {name: value.to(device, pipeline.dtype) for name, value in embeddings.items() if value.is_floating_point()}
    given = {name: value.to(device) for name, value in embeddings.items()} | floats

    def paint(num_steps: int) -> tuple[float, float]:
        latents: list[Tensor] = []

        def denoise_rows(rows: slice) -> None:
            latents.append(
                denoise(
                    pipeline,
                    noise[rows],
                    {name: value[rows] for name, value in given.items()},
                    [0] * len(noise[rows]),
                    num_inference_steps=num_steps,
                    guidance_scale=spec.guidance_scale,
                )
            )

        def denoise_all() -> None:
            for rows in [slice(0, 2)] if batched else [slice(0, 1), slice(1, 2)]:
                denoise_rows(rows)

        denoising = clock.time(denoise_all)
        return denoising, clock.time(lambda: decode(pipeline, torch.cat(latents)))

    paint(min(2, settings.steps))
    with clock.peak() as peak:
        times = [paint(settings.steps) for _ in range(settings.repeats)]
    denoising, decoding = zip(*times, strict=True)
    return {
        "pair": summarise([sum(each) for each in times]),
        "denoising": summarise(list(denoising)),
        "decoding": summarise(list(decoding)),
        "peak_bytes": peak["bytes"],
    }


# --- routes of the SVD ------------------------------------------------------------------------------------------------

Svd = tuple[Tensor, Tensor, Tensor]


def decompose_beside(matrix: Tensor) -> Svd:
    """On the CPU, and the answer back on the matrix's device."""
    u, s, vh = decompose(matrix.cpu())
    return u.to(matrix.device), s.to(matrix.device), vh.to(matrix.device)


def decompose_gram(matrix: Tensor) -> Svd:
    """By eigendecomposition of the Gram matrix: fewer operations, and the square of the condition number."""
    squares, v = torch.linalg.eigh(matrix.mT @ matrix)
    s, v = squares.clamp(min=0).sqrt().flip(-1), v.flip(-1)
    return matrix @ v / s.clamp(min=torch.finfo(s.dtype).tiny).unsqueeze(-2), s, v.mT


def decompose_gram_in_fp64(matrix: Tensor) -> Svd:
    u, s, vh = decompose_gram(matrix.double())
    return u.to(matrix.dtype), s.to(matrix.dtype), vh.to(matrix.dtype)


def routes_on(device: torch.device) -> dict[str, Callable[[Tensor], Svd]]:
    """The ways to a singular value decomposition that a device has; CUDA's drivers by their names."""
    drivers = ("gesvd", "gesvdj", "gesvda") if device.type == "cuda" else ()
    routes: dict[str, Callable[[Tensor], Svd]] = {"torch.linalg.svd": decompose}
    routes |= {name: partial(decompose, cuda_driver=name) for name in drivers}
    if device.type != "cpu":
        routes["on the CPU"] = decompose_beside
    return routes | {"Gram matrix": decompose_gram, "Gram matrix in fp64": decompose_gram_in_fp64}


def time_routes(npnet: NPNet, device: torch.device, clock: Clock) -> list[dict[str, Any]]:
    """Each route on one and on eight matrices as NPNet makes them of noise: seconds, and errors against fp64.

    `value_error` is the largest error of a singular value as a share of the largest value, `product_error` that of
    an entry of U diag(s) Vh, of which the entries have unit variance; `vector_error` the largest departure of U from
    orthogonality. A route that fails has one sentence, `failed`, in their place.
    """
    config = npnet.config
    rows: list[dict[str, Any]] = []
    for batch in (1, 8):
        noise = source_noise(range(batch), (config.channels, config.height, config.width))
        assert npnet.unet_svd is not None
        matrix = npnet.unet_svd.to_matrix(noise).to(device)
        exact = torch.linalg.svdvals(matrix.cpu().double())
        for name, route in routes_on(device).items():
            work = partial(route, matrix)
            try:
                u, s, vh = (part.cpu().double() for part in work())
            except (GoldenError, RuntimeError) as error:  # a driver may refuse or not converge
                rows.append({"route": name, "matrices": batch, "failed": str(error).splitlines()[0]})
                continue
            seconds = [clock.time(work) for _ in range(WARM_UPS + NUM_CALLS)][WARM_UPS:]
            identity = torch.eye(u.shape[-1], dtype=u.dtype)
            rows.append(
                {
                    "route": name,
                    "matrices": batch,
                    "seconds": summarise(seconds),
                    "value_error": ((s - exact).abs().amax() / exact.amax()).item(),
                    "product_error": (u * s.unsqueeze(-2) @ vh - matrix.cpu().double()).abs().amax().item(),
                    "vector_error": (u.mT @ u - identity).abs().amax().item(),
                }
            )
    return rows


# --- the whole --------------------------------------------------------------------------------------------------------


def run(settings: Namespace) -> dict[str, Any]:
    """Every figure of one model on one device, ready for JSON."""
    device = torch.device(settings.device)
    clock = Clock(device)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    with tqdm(total=6, unit="stage", disable=None, leave=False) as bar:

        def say(stage: str) -> None:
            bar.set_description(stage)
            bar.update()

        say("building")
        # Tiny: latents as large as asked for are the model's own, so that its NPNet needs no windows.
        sample_size = settings.size // 8 if settings.tiny else 128
        pipeline = BUILDERS[settings.model](dtype, settings.tiny, sample_size)
        pipeline.set_progress_bar_config(disable=True)
        embeddings, npnet = make_embeddings(pipeline), make_npnet(pipeline, settings.tiny)
        shape = latent_shape(pipeline, settings.size, settings.size)
        say("NPNet")
        on_cpu = time_npnet(npnet, shape, embeddings, clock)
        with clock.peak() as npnet_peak:
            on_device = time_npnet(npnet.to(device), shape, embeddings, clock)
        say("routes of the SVD")
        routes = time_routes(npnet, device, clock)
        say("pairs, batched")
        pipeline.to(device)
        pairs = {"high, batched": time_pairs(pipeline, embeddings, settings, clock, batched=True)}
        say("pairs, one after the other")
        pairs["high, one after the other"] = time_pairs(pipeline, embeddings, settings, clock, batched=False)
        say("pairs, memory low")
        npnet.to("cpu")
        spare_memory(pipeline, settings.device)
        pairs["low"] = time_pairs(pipeline, embeddings, settings, clock, batched=True)
    image = pairs["high, batched"]["pair"]["median"] / 2
    return {
        "settings": {name: getattr(settings, name) for name in ("model", "steps", "size", "device", "tiny", "repeats")},
        "machine": {
            "device": torch.cuda.get_device_name(device) if clock.is_cuda else platform.processor() or "CPU",
            "cpu_threads": torch.get_num_threads(),
            "dtype": str(dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        },
        "pairs": pairs,
        "npnet": {"seconds": on_device, "on_cpu": on_cpu, "share": on_device["median"] / image}
        | {"peak_bytes": npnet_peak["bytes"]},
        "svd": routes,
    }


def format_report(report: dict[str, Any]) -> str:
    """Markdown tables of a report."""
    settings, machine, npnet = report["settings"], report["machine"], report["npnet"]
    size = settings["size"]
    lines = [
        f"{settings['model']}{' (tiny)' if settings['tiny'] else ''}, random weights, {machine['dtype']}, "
        f"{settings['steps']} steps, {size} x {size}, {machine['device']}, torch {machine['torch']}",
        "",
        "| memory mode | seconds per pair | denoising | decoding | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, pair in report["pairs"].items():
        spread = f"{pair['pair']['median']:.2f} [{pair['pair']['fastest']:.2f}, {pair['pair']['slowest']:.2f}]"
        parts = f"{pair['denoising']['median']:.2f} | {pair['decoding']['median']:.2f}"
        lines.append(f"| {name} | {spread} | {parts} | {show_bytes(pair['peak_bytes'])} |")
    lines += [
        "",
        f"NPNet: {show_milliseconds(npnet['seconds'])} a picture ({100 * npnet['share']:.2f} % of it), "
        f"{show_milliseconds(npnet['on_cpu'])} on the CPU, peak memory {show_bytes(npnet['peak_bytes'])}.",
        "",
        "| route of the SVD | matrices | time | error of values | of the product | of U's orthogonality |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["svd"]:
        if "failed" in row:
            lines.append(f"| {row['route']} | {row['matrices']} | {row['failed'][:100]} | | | |")
            continue
        errors = " | ".join(f"{row[name]:.1e}" for name in ("value_error", "product_error", "vector_error"))
        lines.append(f"| {row['route']} | {row['matrices']} | {show_milliseconds(row['seconds'])} | {errors} |")
    return "\n".join(lines)


def show_milliseconds(seconds: dict[str, float]) -> str:
    middle, low, high = (1000 * seconds[name] for name in ("median", "fastest", "slowest"))
    return f"{middle:.1f} ms [{low:.1f}, {high:.1f}]"


def show_bytes(num_bytes: int | None) -> str:
    return "not measured" if num_bytes is None else f"{num_bytes / 2**30:.2f} GiB"


def parse(argv: list[str] | None = None) -> Namespace:
    parser = ArgumentParser(prog="bench_full_size.py", description="Time and memory of full-size models.")
    parser.add_argument("--model", choices=BUILDERS, default="sdxl", help="whose sizes")
    parser.add_argument("--steps", type=int, default=50, help="number of steps")
    parser.add_argument("--size", type=int, default=1024, help="height and width of the pictures, in pixels")
    parser.add_argument("--device", default="cuda", help="where to run: cuda, cuda:1, cpu")
    parser.add_argument("--repeats", type=int, default=3, help="pairs in each mode")
    parser.add_argument("--tiny", action="store_true", help="tiny models of the same classes, for a trial")
    parser.add_argument("--out", type=Path, default=Path("runs/full_size.json"), help="JSON file to write")
    settings = parser.parse_args(argv)
    for name, high in (("steps", 200), ("size", 4096), ("repeats", 1000)):
        if not 1 <= getattr(settings, name) <= high:
            raise InvalidInput(f"--{name} must be a whole number from 1 to {high}, got {getattr(settings, name)}.")
    if settings.size < 64 or settings.size % 16:
        raise InvalidInput(f"--size must be a multiple of 16 pixels and at least 64, got {settings.size}.")
    try:
        torch.empty(1, device=settings.device)
    except (RuntimeError, AssertionError) as error:  # how torch says that it has no such device
        raise InvalidInput(f"There is no device {settings.device!r} here: {str(error).splitlines()[0]}") from None
    return settings


def main(argv: list[str] | None = None) -> None:
    settings = parse(argv)
    report = run(settings)
    write_bytes(settings.out, (json.dumps(report, indent=2) + "\n").encode())
    print(format_report(report))


if __name__ == "__main__":
    run_command(main)
