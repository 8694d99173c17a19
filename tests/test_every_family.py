"""What every family of pipelines does: samplers, arms, previews, gradients, golden noise in three lines, training."""

import inspect
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from eval.prompt_sets import Prompt
from eval.rendering import Renderer, Variant
from golden import render
from golden.arms import Conditions, make_noises
from golden.compare import Progress, compare
from golden.errors import InvalidInput
from golden.families import FAMILIES, find_family
from golden.library import GoldenNoise
from golden.model import Model
from golden.models import RewardSettings, Sampling
from golden.noise import first_timestep, sample_first_steps, source_noise
from golden.pipelines import denoise, encode_images, encode_prompts, latent_shape, repeat_embeddings, sample_images
from golden.request import CompareRequest, validate
from golden.reward import Reward, reward_gradient
from golden.samplers import SAMPLERS
from golden.settings import read_png
from golden.verifier import load_verifier, make_verifier, save_verifier
from tests.conftest import EVERY_ARM, SIZE
from train.make_shard import collect_shard
from train.network import make_npnet
from train.objectives import PairsObjective, RewardObjective
from train.pairs import write_manifest, write_shard
from train.settings import Architecture, CollectionSettings, TrainingSettings
from train.stream import PairStream, choose_rows, is_held_out, keep_embeds
from train.trainer import Trainer

PROMPTS = ["a red star", "two circles"]


@pytest.fixture(params=[name for name in FAMILIES if name not in ("sdxl", "hunyuan-dit")])
def model(request, tiny_of_family: Callable[[str], Model]) -> Model:
    """A tiny model of each family; those of SDXL and Hunyuan-DiT are tested at greater length elsewhere."""
    return tiny_of_family(request.param)


def start(model: Model) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return source_noise([1, 2], latent_shape(model.pipeline)), encode_prompts(model.pipeline, PROMPTS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_noise_in_both_arms_gives_equal_latents(model, sampler):
    """With every valid sampler, batched and alone; another is refused before anything is sampled."""
    pipeline, family = model.pipeline, model.family
    noise, embeddings = source_noise([3], latent_shape(pipeline)), encode_prompts(pipeline, ["a red star"])
    sampling = Sampling(sampler, 4, 3.0)
    if sampler not in family.samplers:
        with pytest.raises(InvalidInput, match=f"cannot use the sampler '{sampler}': choose one of "):
            denoise(pipeline, noise, embeddings, [7], sampling)
        with pytest.raises(InvalidInput, match=f"choose one of {', '.join(family.samplers)}"):
            validate(CompareRequest(prompt="a star", sampler=sampler), model.spec)
        return
    batched = denoise(pipeline, torch.cat([noise, noise]), repeat_embeddings(embeddings, 2), [7, 7], sampling)
    alone = denoise(pipeline, noise, embeddings, [7], sampling)
    assert batched.isfinite().all()
    assert (batched[0] - batched[1]).abs().max() <= 1e-3
    assert (batched[:1] - alone).abs().max() <= 1e-3


def test_every_sampler_counts_its_steps_and_shows_previews(model, monkeypatch):
    monkeypatch.setattr("golden.compare.PREVIEWS_PER_SECOND", 10**9)
    monkeypatch.setattr("golden.compare.PREVIEW_SHARE", 1)
    for sampler in model.family.samplers:
        request = CompareRequest(prompt="a red star", num_inference_steps=3, sampler=sampler, seed=3)
        progress = [event for event in compare(request, model) if isinstance(event, Progress)]
        assert [event.step for event in progress] == list(range(1, len(progress) + 1))
        assert {event.num_steps for event in progress} == {len(progress)}
        assert [len(event.previews) for event in progress] == [2] * (len(progress) - 1) + [0]
        assert progress[0].previews[0].size == (8 * SIZE, 8 * SIZE)


def test_a_benchmark_checks_every_sampler_beforehand(model):
    """Also where the pipeline gives the schedule a shift that depends on the size of the image."""
    variants = [Variant(sampler, "standard", 3, 3.0, sampler) for sampler in model.family.samplers]
    Renderer(model).check(variants, Prompt("a red star"))


def test_every_arm_makes_noise_of_its_own(model):
    source, embeddings = start(model)
    conditions = Conditions(model, model.npnet, embeddings, [1, 2])
    noises, _ = make_noises(EVERY_ARM, source, conditions)
    for arm, noise in noises.items():
        assert noise.shape == source.shape
        assert noise.dtype == torch.float32
        assert noise.isfinite().all()
        if not arm.startswith("select"):  # which may choose the source noise
            assert torch.equal(noise, source) == (arm == "standard"), arm
    still, _ = make_noises(EVERY_ARM, source, conditions, strength=0)
    assert all(torch.equal(noise, source) for noise in still.values())
    images = sample_images(model, noises["inversion"], embeddings, [1, 2], Sampling(model.family.samplers[0], 2, 3.0))
    assert [image.size for image in images] == [(8 * SIZE, 8 * SIZE)] * 2


@pytest.mark.parametrize("arm", ["inversion", "repaint", "npnet", "ascent"])
def test_rows_of_an_arm_do_not_see_each_other(model, arm):
    source, embeddings = start(model)
    noises, _ = make_noises([arm], source, Conditions(model, model.npnet, embeddings, [1, 2]))
    second = {name: value[1:] for name, value in embeddings.items()}
    alone, _ = make_noises([arm], source[1:], Conditions(model, model.npnet, second, [2]))
    assert torch.allclose(noises[arm][1:], alone[arm], atol=1e-3 if arm == "ascent" else 1e-5)


def call_itself(pipeline: Any, prompts: list[str], **options: Any) -> torch.Tensor:
    """Latents (B, C, h, w) after two steps of the pipeline's own call."""
    family = find_family(pipeline)
    own = {"num_inference_steps": 2, "output_type": "latent", "height": 8 * SIZE, "width": 8 * SIZE}
    own |= family.call_arguments() | family.guidance_arguments(3.0)
    own.pop("negative_prompt", None)  # for embeddings alone
    if "true_cfg_scale" in own:  # guidance wants to be asked for with a prompt
        own["negative_prompt"] = [family.negative_prompt] * len(prompts)
    return family.read_output(pipeline, pipeline(prompt=list(prompts), **own, **options).images, SIZE, SIZE)


def test_at_strength_zero_the_image_is_the_pipelines_own_to_the_bit(model):
    golden = GoldenNoise.for_pipeline(model.pipeline, model.npnet)
    pipeline, prompts = golden.pipeline, PROMPTS[:1]
    stock = call_itself(pipeline, prompts, generator=torch.Generator().manual_seed(7))
    ours = call_itself(pipeline, prompts, latents=golden(PROMPTS[0], seed=7, strength=0))
    assert torch.equal(ours, stock)
    drawn = golden(PROMPTS[0], generator=torch.Generator().manual_seed(7), strength=0)
    assert torch.equal(call_itself(pipeline, prompts, latents=drawn), stock)
    assert not torch.allclose(call_itself(pipeline, prompts, latents=golden(PROMPTS[0], seed=7)), stock)


def test_denoise_is_the_pipelines_own_call(model):
    noise, embeddings = start(model)
    sampler = model.family.samplers[0]
    pipeline, own = model.pipeline, model.pipeline.scheduler
    latents = denoise(pipeline, noise, embeddings, [0, 0], Sampling(sampler, 2, 3.0))
    # Without T5, golden asks for fewer zeros in its place than the pipeline does by itself.
    options = {"max_sequence_length": pipeline.tokenizer_max_length} if model.family.name == "sd3" else {}
    try:
        pipeline.scheduler = SAMPLERS[sampler](own.config)
        expected = call_itself(pipeline, PROMPTS, latents=model.family.pack(pipeline, noise), **options)
    finally:
        pipeline.scheduler = own
    assert torch.allclose(latents, expected, atol=1e-4)


def test_gradients_reach_the_noise_through_the_sampler(model):
    noise, embeddings = start(model)
    leaf = noise.clone().requires_grad_(True)
    sampling = Sampling(model.family.samplers[0], 2, 3.0)
    latents = denoise(model.pipeline, leaf, embeddings, [0, 0], sampling, grad=True)
    assert torch.allclose(latents.detach(), denoise(model.pipeline, noise, embeddings, [0, 0], sampling), atol=1e-5)
    latents[0].square().sum().backward()
    assert leaf.grad[0].norm() > 0
    assert leaf.grad[1].norm() == 0


def test_first_steps_are_those_of_the_whole_schedule(model):
    noise, embeddings = start(model)
    sampling = Sampling(model.family.samplers[0], 10, 3.0)
    latents, timestep, clean = sample_first_steps(model.pipeline, noise, embeddings, sampling, 2)
    seen = []
    denoise(model.pipeline, noise, embeddings, [0, 0], sampling, on_step=lambda *arguments: seen.append(arguments[-1]))
    assert torch.allclose(clean, seen[1], atol=1e-4)
    assert 0 < timestep < first_timestep(model.pipeline)
    assert latents.shape == noise.shape


def test_a_reward_reaches_the_noise(model):
    noise, embeddings = start(model)
    rewards, gradient = reward_gradient(Reward(model, model.spec.reward), noise, embeddings)
    assert rewards.shape == (2,)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_the_verifier_follows_noise_prompt_and_timestep(model, tmp_path):
    noise, embeddings = start(model)
    torch.manual_seed(0)
    verifier = make_verifier(model.pipeline).eval()
    with torch.no_grad():
        logits = verifier(model.pipeline, noise, 501, embeddings)
        others = [
            verifier(model.pipeline, noise.flip(0), 501, embeddings),
            verifier(model.pipeline, noise, 501, {name: value.flip(0) for name, value in embeddings.items()}),
            verifier(model.pipeline, noise, 11, embeddings),
        ]
        alone = verifier(model.pipeline, noise[1:], 501, {name: value[1:] for name, value in embeddings.items()})
    assert logits.shape == (2,)
    assert not any(torch.allclose(logits, other, atol=1e-6) for other in others)
    assert torch.allclose(logits[1:], alone, atol=1e-5)
    save_verifier(tmp_path / "verifier.safetensors", verifier)
    loaded = load_verifier(tmp_path / "verifier.safetensors", model.pipeline)
    with torch.no_grad():
        assert torch.allclose(loaded(model.pipeline, noise, 501, embeddings), logits, atol=2e-2)


def test_images_become_latents_that_decode_to_images(model):
    noise, embeddings = start(model)
    images = sample_images(model, noise, embeddings, [1, 2], Sampling(model.family.samplers[0], 2, 3.0))
    latents = encode_images(model.pipeline, images)
    assert latents.shape == noise.shape
    assert latents.isfinite().all()


def test_what_conditions_a_pipeline_is_an_argument_of_its_call(model):
    arguments = inspect.signature(model.pipeline.__call__).parameters
    assert set(encode_prompts(model.pipeline, PROMPTS)) <= set(arguments)


def test_a_start_image_is_refused_in_a_sentence(model):
    golden = GoldenNoise.for_pipeline(model.pipeline, model.npnet)
    with pytest.raises(InvalidInput, match="A start image is for SDXL's img2img pipelines"):
        golden.start_image(torch.zeros(1, 3, 64, 64), PROMPTS[0], strength=0.5, num_inference_steps=4)


def test_an_image_is_rendered_with_its_settings_and_again_from_them(model, tmp_path, monkeypatch, tiny_files):
    monkeypatch.setattr("golden.model.load_model", lambda *arguments, **options: model)
    folder, npnet = tiny_files(model.family.name)
    common = ["--model", folder, "--npnet", str(npnet), "--device", "cpu"]
    render.main(
        ["--prompt", "a red star", "--num-inference-steps", "2", "--seed", "5", "--out", str(tmp_path / "one"), *common]
    )
    render.main(["--from-image", str(tmp_path / "one" / "golden.png"), "--out", str(tmp_path / "two"), *common])
    made = read_png((tmp_path / "two" / "golden.png").read_bytes())
    assert (made["settings"]["prompt"], made["settings"]["seed"]) == ("a red star", 5)
    for name in ("standard.png", "golden.png"):
        one, two = (Image.open(tmp_path / part / name) for part in ("one", "two"))
        assert one.size == (8 * SIZE, 8 * SIZE)
        assert one.tobytes() == two.tobytes()


def test_a_comparison_is_stopped_between_steps(model):
    scheduler = model.pipeline.scheduler
    events = compare(CompareRequest(prompt="a red star", sampler=model.family.samplers[0]), model)
    assert next(events).step == 1
    events.close()
    assert not model.lock.locked()
    assert model.pipeline.scheduler is scheduler


def test_pairs_are_collected_and_both_objectives_take_steps(model, tmp_path, monkeypatch):
    monkeypatch.setattr("train.stream.load_model", lambda *arguments, **options: model)
    settings = CollectionSettings(model=model.spec.repo, shard_size=8, targets=("10x1",), judged=False)
    prompts = [prompt for prompt in (f"{n} stars" for n in range(20)) if not is_held_out(prompt)][:4]
    write_manifest(tmp_path, {"settings": asdict(settings)})
    write_shard(tmp_path, 0, collect_shard(model, settings, 0, prompts))
    keep_embeds(tmp_path)
    rows, held_out = choose_rows(tmp_path, "all")
    assert len(rows) == 8
    quick = TrainingSettings(filter="all", batch_size=4, num_epochs=1, reward_rows=8, micro_batch_size=2)
    reward = Reward(model, RewardSettings(num_inference_steps=4, num_steps=1))
    pairs = PairsObjective(PairStream(tmp_path), rows, held_out, quick)
    for objective in (pairs, RewardObjective(reward, prompts, [], quick)):
        num_tokens = model.family.npnet_embeds(encode_prompts(model.pipeline, PROMPTS)).shape[1]
        assert objective.sizes[:4] == (*latent_shape(model.pipeline), num_tokens)
        network = make_npnet(Architecture(residual=False, layout_rank=4), objective.sizes)
        assert bool(network.config.text.num_queries) == (num_tokens > 77)
        trainer = Trainer(quick, network, objective, Accelerator(cpu=True))
        losses = [trainer.advance(batch) for batch in trainer.batches()]
        assert len(losses) == 2
        assert all(math.isfinite(loss) for loss in losses)


def test_an_npnet_that_reads_fewer_tokens_is_trained_on(model):
    """As when that of another model is fine-tuned: it sees the first."""
    quick = TrainingSettings(batch_size=2, num_epochs=1, reward_rows=2)
    reward = Reward(model, RewardSettings(num_inference_steps=4, num_steps=1))
    objective = RewardObjective(reward, PROMPTS, [], quick)
    network = make_npnet(
        Architecture(residual=False, singular=False, layout_rank=4), objective.sizes._replace(num_tokens=20)
    )
    trainer = Trainer(quick, network, objective, Accelerator(cpu=True))
    (batch,) = trainer.batches()
    assert math.isfinite(trainer.advance(batch))
