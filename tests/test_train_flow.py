"""The embedded flow model: its training, the padding that costs one token, and its folder."""

import json

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import nn

from golden.errors import MissingWeights
from golden.files import write_bytes
from golden.model import load_model
from golden.models import Sampling
from golden.noise import source_noise
from golden.pipelines import encode_prompts
from golden.shapes import CATEGORIES
from golden.verifier import capture_network_inputs
from train.shapes import denoisers, train_flow, training
from train.shapes.train_flow import FlowOptions
from train.shapes.train_unet import make_signal

CAPTIONS = ["a red star", "two blue hearts", "a circle left of a square"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A transformer of one block, and a cached training set of three captions whose latents are noise."""
    monkeypatch.setattr(training, "RUNS", tmp_path)
    monkeypatch.setattr(denoisers, "CACHE", tmp_path / "latents")
    monkeypatch.setattr(train_flow, "FLOW_FOLDER", tmp_path / "model")
    monkeypatch.setattr(train_flow, "SAMPLING", Sampling("flow_euler", num_inference_steps=2, guidance_scale=4.0))
    monkeypatch.setattr(train_flow, "CONFIG", train_flow.CONFIG | {"num_layers": 1})
    write_bytes(tmp_path / "latents" / "captions.json", json.dumps(CAPTIONS).encode())
    torch.save({"latents": torch.randn(3, 2, 4, 16, 16).half()}, tmp_path / "latents" / "latents.pt")
    return tmp_path


@pytest.mark.parametrize("num_padding", [0, 1, 256])
def test_one_token_stands_for_any_number_of_zeros(num_padding):
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(**train_flow.CONFIG | {"num_layers": 2}).eval()
    for parameter in transformer.parameters():
        if parameter.ndim == 1:  # zeros would hide what the padding does
            nn.init.normal_(parameter, std=0.3)
    states, pooled, latents = torch.randn(2, 24, 256), torch.randn(2, 256), torch.randn(2, 4, 16, 16)
    timesteps = torch.tensor([300.0, 900.0])
    with torch.no_grad():
        padded = nn.functional.pad(states, (0, 0, 0, num_padding))
        expected = transformer(latents, padded, pooled, timesteps, return_dict=False)[0]
        transformer.set_attn_processor(train_flow.PaddedAttention())
        mask = train_flow.mask_padding(torch.tensor([num_padding, num_padding]), 64 + 24 + 1)
        one = nn.functional.pad(states, (0, 0, 0, 1))
        masked = {"attention_mask": mask}
        found = transformer(latents, one, pooled, timesteps, return_dict=False, joint_attention_kwargs=masked)[0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_flow_trains_on_what_was_cached_and_stock_diffusers_loads_it(small):
    options = FlowOptions(num_steps=2, batch_size=4, num_evaluated=1)
    with pytest.raises(MissingWeights, match="--states"):
        train_flow.train_flow(options)
    train_flow.make_states()
    transformer = train_flow.train_flow(options)
    assert not transformer.training
    (row,) = [json.loads(line) for line in (small / "flow" / "log.jsonl").read_text().splitlines()]
    assert row["step"] == 2
    assert set(row["right_by_category"]) == set(CATEGORIES)

    train_flow.save_pipeline(transformer)
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        small / "model", text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )
    assert type(pipeline.transformer.transformer_blocks[0].attn.processor).__name__ == "JointAttnProcessor2_0"
    assert max(path.stat().st_size for path in (small / "model").rglob("*")) < 10 * 2**20
    assert not any("_name_or_path" in path.read_text() for path in (small / "model").rglob("config.json"))
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red star", num_inference_steps=1, output_type="pt").images
    assert image.shape == (1, 3, 128, 128)
    assert image.isfinite().all()


def test_states_are_those_of_the_pipelines_own_call(small):
    train_flow.make_states()
    saved = torch.load(small / "latents" / "flow_states.pt", weights_only=True)
    pipeline = train_flow.make_pipeline(SD3Transformer2DModel(**train_flow.CONFIG), torch.float32)
    states, negative, pooled, negative_pooled = pipeline.encode_prompt(CAPTIONS[0], None, None)
    num_tokens = saved["states"].shape[1]
    assert torch.allclose(saved["states"][0].float(), states[0, :num_tokens], rtol=2**-10, atol=1e-2)
    assert torch.allclose(saved["states"][-1].float(), negative[0, :num_tokens], rtol=2**-10, atol=1e-2)
    assert torch.allclose(saved["pooled"][0].float(), pooled[0], rtol=2**-10, atol=1e-2)
    assert torch.allclose(saved["pooled"][-1].float(), negative_pooled[0], rtol=2**-10, atol=1e-2)
    assert (states[:, num_tokens:] == 0).all()
    assert (states.shape[1] - num_tokens, num_tokens) == train_flow.PADDING


def test_the_teacher_says_the_velocity_that_its_pipeline_would():
    """Its network is asked as SDXL's pipeline asks it, with embeddings as the flow's pipeline makes them."""
    pipeline, timestep = load_model("shapes", device="cpu").pipeline, 601
    flow = train_flow.make_pipeline(SD3Transformer2DModel(**train_flow.CONFIG), torch.float32)
    states, _, pooled, _ = flow.encode_prompt([*CAPTIONS[:2], ""], None, None, max_sequence_length=0)
    noisy = source_noise([1, 2, 3], (4, 16, 16))
    with torch.no_grad():
        embeddings = encode_prompts(pipeline, CAPTIONS[:2])
        arguments, keywords = capture_network_inputs(pipeline, noisy[:2], timestep, embeddings)
        predicted = pipeline.unet(*arguments, **keywords)[0]
        signal = pipeline.scheduler.alphas_cumprod[timestep]
        images = (noisy[:2] - (1 - signal).sqrt() * predicted) / signal.sqrt()

        ratio = ((1 - signal) / signal).sqrt()
        sigma = ratio / (1 + ratio)
        weight = 1 / ((1 - sigma) ** 2 + sigma**2).sqrt()
        teacher = train_flow.Teacher(train_flow.MODEL_FOLDER / "unet")
        conditional = torch.tensor([1.0, 1.0, 0.0])
        velocities = teacher(noisy / weight, sigma.expand(3), states, pooled, conditional)
        others = states[[1, 0, 0]], pooled[[1, 0, 0]]
        for_another_caption = teacher(noisy / weight, sigma.expand(3), *others, conditional)
    assert torch.allclose(noisy[:2] / weight - sigma * velocities[:2], images, atol=1e-3)
    assert not torch.allclose(for_another_caption[:2], velocities[:2], atol=1e-2)
    assert torch.allclose(for_another_caption[2], velocities[2], atol=1e-5)  # it reads none there


@pytest.mark.parametrize("sigma", [1e-4, 0.02, 0.5, 0.93, 0.99, 1 - 1e-7])
def test_a_teacher_that_knows_the_image_says_the_way_to_it_from_any_noise(sigma):
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    teacher = train_flow.Teacher(train_flow.MODEL_FOLDER / "unet")

    def say_noise(scaled, timesteps, *arguments, **keywords):
        log_ratio = ((1 - make_signal()) / make_signal()).sqrt().log()
        below, share = timesteps.long(), timesteps.frac()
        ratio = torch.lerp(log_ratio[below], log_ratio[(below + 1).clamp(max=999)], share).exp().view(-1, 1, 1, 1)
        return ((scaled * (1 + ratio**2).sqrt() - latents) / ratio,)

    teacher.unet = say_noise
    noisy = (1 - sigma) * latents + sigma * noise
    velocities = teacher(noisy, torch.full((2,), sigma), torch.zeros(2, 24, 256), torch.zeros(2, 256), torch.ones(2))
    assert torch.allclose(velocities, noise - latents, atol=5e-3)


@pytest.mark.parametrize("folder", [None, train_flow.MODEL_FOLDER / "unet"], ids=["images", "teacher"])
def test_the_loss_falls(small, monkeypatch, folder):
    monkeypatch.setattr(train_flow, "count_right", lambda *arguments, **options: {})
    train_flow.make_states()
    train_flow.train_flow(FlowOptions(num_steps=12, batch_size=8, num_evaluated=0, learning_rate=0.05, teacher=folder))
    teacher = train_flow.Teacher(folder) if folder else None
    data = denoisers.load_cache("flow_states.pt", "--states")
    torch.manual_seed(3)
    untrained = SD3Transformer2DModel(**train_flow.CONFIG)
    trained = SD3Transformer2DModel(**train_flow.CONFIG)
    trained.load_state_dict(
        torch.load(small / "flow" / "checkpoint.pt", map_location="cpu", weights_only=True)["model"]
    )
    losses = []
    for transformer in (untrained, trained):
        transformer.set_attn_processor(train_flow.PaddedAttention())
        compute_loss = train_flow.make_loss(transformer, data, 7, 32, teacher)
        with torch.no_grad():
            torch.manual_seed(0)
            losses.append(compute_loss(0).item())
    assert losses[1] < losses[0]
