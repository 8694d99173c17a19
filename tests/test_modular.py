"""Golden noise as a block of Modular Diffusers: the same image as GoldenNoise, to the bit, for SDXL and for a flow."""

import json
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    ModularPipelineBlocks,
    StableDiffusion3AutoBlocks,
    StableDiffusionXLAutoBlocks,
    StableDiffusionXLPipeline,
)

import golden
from golden.errors import InvalidInput, MissingWeights
from golden.files import ASSETS
from golden.library import GoldenNoise
from golden.modular import MODULE, GoldenNoiseStep

PROMPT = "a red circle left of a blue square"
SHAPES = str(ASSETS / "shapes" / "model")


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make_pipeline(blocks: Any, repo: str, step: GoldenNoiseStep | None = None) -> Any:
    """The pipeline of a folder, with golden noise where `step` is given."""
    if step is not None:
        blocks.sub_blocks.insert("golden_noise", step, 1)
    pipe = blocks.init_pipeline(repo)
    pipe.load_components(workflow="text2image", dtype=torch.float32)
    return pipe


def paint(pipe: Any, prompt: Any = PROMPT, **arguments: Any) -> np.ndarray:
    arguments = {"num_inference_steps": 2} | arguments
    return np.stack([np.asarray(image) for image in pipe(prompt=prompt, output="images", **arguments)])


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    diffusers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def shapes() -> Any:
    return make_pipeline(StableDiffusionXLAutoBlocks(), SHAPES, GoldenNoiseStep())


# --- SDXL, on the embedded model --------------------------------------------------------------------------------------


def test_three_lines_make_the_image_that_golden_noise_makes(shapes):
    classic = StableDiffusionXLPipeline.from_pretrained(SHAPES, add_watermarker=False)
    classic.set_progress_bar_config(disable=True)
    latents = GoldenNoise.for_pipeline(classic)(PROMPT, generator=generators(7)[0])
    made = paint(shapes, generator=generators(7)[0])
    plain = make_pipeline(StableDiffusionXLAutoBlocks(), SHAPES)
    assert np.array_equal(made, paint(plain, latents=latents))
    scale = shapes.guider.config.guidance_scale
    expected = classic(PROMPT, latents=latents, num_inference_steps=2, guidance_scale=scale).images
    # The modular pipeline calls the UNet for each condition in turn, the classic one for both at once: rounding.
    assert np.abs(made[0].astype(int) - np.asarray(expected[0])).max() <= 1
    assert not np.array_equal(made, paint(plain, generator=generators(7)[0]))


def test_a_strength_of_zero_is_the_pipelines_own_image(shapes):
    plain = make_pipeline(StableDiffusionXLAutoBlocks(), SHAPES)
    own = paint(plain, generator=generators(3)[0])
    assert np.array_equal(paint(shapes, generator=generators(3)[0], golden_strength=0.0), own)


def test_rows_and_sizes_and_latents_go_through(shapes):
    prompts = ["a red circle", "a blue star"]
    many = paint(shapes, prompts, generator=generators(1, 2, 3, 4), num_images_per_prompt=2, height=128, width=192)
    assert many.shape == (4, 128, 192, 3)
    noise = torch.cat([torch.randn(1, 4, 16, 24, generator=each) for each in generators(1, 2, 3, 4)])
    again = paint(shapes, prompts, latents=noise, num_images_per_prompt=2, height=128, width=192)
    assert np.array_equal(many, again)


def test_without_a_generator_each_call_is_another_image(shapes):
    torch.manual_seed(0)
    first = paint(shapes, num_inference_steps=1)
    assert not np.array_equal(first, paint(shapes, num_inference_steps=1))
    torch.manual_seed(0)
    assert np.array_equal(first, paint(shapes, num_inference_steps=1))


def run_step(step: GoldenNoiseStep, pipe: Any, **values: Any) -> None:
    """Run the block alone: the pipeline would print its errors before it raises them."""
    state = diffusers.modular_pipelines.PipelineState()
    for name, value in {"prompt_embeds": torch.zeros(1, 77, 256), **values}.items():
        state.set(name, value)
    step(pipe, state)


def test_what_does_not_fit_is_refused_in_a_sentence(shapes, tmp_path):
    with pytest.raises(InvalidInput, match="call the pipeline without image"):
        run_step(GoldenNoiseStep(), shapes, image=object())
    with pytest.raises(InvalidInput, match="strength must be a number from 0 to 3"):
        run_step(GoldenNoiseStep(), shapes, golden_strength=9.0)
    with pytest.raises(InvalidInput, match="one for each of 1 rows"):
        run_step(GoldenNoiseStep(), shapes, generator=generators(1, 2))
    with pytest.raises(MissingWeights, match="No weight file"):
        run_step(GoldenNoiseStep(tmp_path / "net.safetensors"), shapes)
    with pytest.raises(InvalidInput, match="This NPNet is for latents"):
        run_step(GoldenNoiseStep("sdxl"), shapes)


# --- a flow -----------------------------------------------------------------------------------------------------------


def test_stable_diffusion_3_makes_the_image_that_golden_noise_makes(tiny_sd3, tiny_sd3_folder, tiny_flow_npnet_file):
    pipe = make_pipeline(StableDiffusion3AutoBlocks(), tiny_sd3_folder, GoldenNoiseStep(tiny_flow_npnet_file))
    plain = make_pipeline(StableDiffusion3AutoBlocks(), tiny_sd3_folder)
    latents = GoldenNoise(tiny_sd3.pipeline, tiny_sd3.npnet)(PROMPT, generator=generators(7)[0])
    made = paint(pipe, generator=generators(7)[0])
    assert np.array_equal(made, paint(plain, latents=latents))
    assert not np.array_equal(made, paint(plain, generator=generators(7)[0]))


# --- as a repository --------------------------------------------------------------------------------------------------


def test_a_folder_of_the_block_is_loaded_by_modular_diffusers(shapes, tmp_path):
    GoldenNoiseStep().save_pretrained(tmp_path / "block")
    assert {path.name for path in (tmp_path / "block").iterdir()} == {"modular_config.json", f"{MODULE}.py"}
    config = json.loads((tmp_path / "block" / "modular_config.json").read_text())
    assert config["auto_map"] == {"ModularPipelineBlocks": f"{MODULE}.GoldenNoiseStep"}
    folder, npnet = str(tmp_path / "block"), ASSETS / "shapes" / "npnet.safetensors"
    step = ModularPipelineBlocks.from_pretrained(folder, trust_remote_code=True, npnet=npnet)
    assert type(step) is GoldenNoiseStep
    pipe = make_pipeline(StableDiffusionXLAutoBlocks(), SHAPES, step)
    assert np.array_equal(paint(pipe, generator=generators(7)[0]), paint(shapes, generator=generators(7)[0]))


def test_the_block_says_what_it_takes():
    step = GoldenNoiseStep()
    assert step.output_names == ["latents"]
    assert "golden_strength" in step.doc
    assert golden.GoldenNoiseStep is GoldenNoiseStep
