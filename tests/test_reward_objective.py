"""The objective `reward` and the training of a verifier learn, resume, and refuse what is wrong, on tiny models."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from golden.errors import InvalidInput
from golden.model import load_model
from golden.models import MODELS, RewardSettings
from golden.noise import source_noise
from golden.pipelines import encode_anew, latent_shape
from golden.reward import Reward
from golden.shapes import sample_caption
from golden.verifier import make_verifier
from train import verifier_training, workers
from train.make_shard import collect_shard
from train.network import make_npnet
from train.objectives import RewardObjective, find_objective
from train.pairs import read_shard, write_manifest, write_shard
from train.settings import Architecture, CollectionSettings, TrainingSettings, VerifierOptions
from train.trainer import Trainer
from train.trajectories import Trajectories, read_trajectories, split_held_out, trace
from train.verifier_training import VerifierTrainer, area_under_curve, load_scenes, resume, run, train_verifier

QUICK = TrainingSettings(
    objective="reward", batch_size=8, num_epochs=2, reward_rows=16, reward_num_steps=1, reward_num_inference_steps=4
)
SMALL = Architecture(singular=False, residual=False, text=False, layout_rank=8)


@pytest.fixture(scope="module")
def verified(tiny_shapes):
    torch.manual_seed(0)
    return replace(tiny_shapes, verifier=make_verifier(tiny_shapes.pipeline).requires_grad_(False).eval())


@pytest.fixture
def objective(verified):
    rng = np.random.default_rng(0)
    prompts = [sample_caption(rng, "colors") for _ in range(12)]
    reward = Reward(verified, RewardSettings(num_inference_steps=4, num_steps=1))
    return RewardObjective(reward, prompts[:8], prompts[8:], QUICK)


def begin(objective, settings=QUICK) -> Trainer:
    torch.manual_seed(0)
    return Trainer(settings, make_npnet(SMALL, objective.sizes), objective, Accelerator(cpu=True))


def test_batches_are_functions_of_epoch_and_start(objective):
    whole = [*objective.batches(1, 8)]
    (last,) = objective.batches(1, 8, start=1)
    assert len(whole) == 2
    assert all(torch.equal(one, other) for one, other in zip(whole[1], last, strict=True))
    assert not torch.equal(whole[0].source, next(iter(objective.batches(0, 8))).source)


def test_training_raises_the_reward_on_what_it_trains_on(objective):
    settings = replace(QUICK, num_epochs=12, learning_rate=3e-2, change_penalty=0.0)
    objective.settings = settings
    objective.num_rows = 8
    trainer = begin(objective, settings)
    losses = [trainer.advance(next(iter(objective.batches(0, 8)))) for _ in range(12)]
    assert losses[-1] < losses[0]
    assert all(np.isfinite(losses))


def test_a_resumed_training_takes_the_same_steps(objective):
    unbroken, first = begin(objective), begin(objective)
    for batch in unbroken.batches():
        unbroken.advance(batch)
    for _, batch in zip(range(2), first.batches(), strict=False):
        first.advance(batch)
    resumed = begin(objective)
    resumed.load_state(first.state())
    for batch in resumed.batches():
        resumed.advance(batch)
    for one, other in zip(unbroken.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_one_extreme_row_does_not_drown_the_others(objective):
    batch = next(iter(objective.batches(0, 8)))

    class Extreme:
        model = objective.reward.model

        def __call__(self, noise, embeddings, prompts):
            weights = torch.ones(len(noise))
            weights[0] = 1e6
            return weights * noise.mean((1, 2, 3))

    objective.reward = Extreme()
    offset = torch.zeros_like(batch.source).requires_grad_(True)
    objective.loss(lambda source, embeds: source + offset, batch).backward()
    norms = offset.grad.flatten(1).norm(dim=1)
    assert norms.max() < 1.01 * norms.min()


@pytest.mark.parametrize("num_bad", [1, 8])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_without_a_gradient_leave_the_others_theirs(objective, num_bad, bad):
    batch = next(iter(objective.batches(0, 8)))

    class Broken:
        model = objective.reward.model

        def __call__(self, noise, embeddings, prompts):
            weights = torch.ones(len(noise))
            weights[:num_bad] = bad
            return weights * noise.mean((1, 2, 3))

    objective.reward, objective.settings = Broken(), replace(QUICK, change_penalty=0.0)
    offset = torch.zeros_like(batch.source).requires_grad_(True)
    objective.loss(lambda source, embeds: source + offset, batch).backward()
    norms = offset.grad.flatten(1).norm(dim=1)
    assert (norms[:num_bad] == 0).all()
    assert (norms[num_bad:] > 0).all()


def test_the_model_and_the_file_of_its_verifier_decide_the_weights(objective, tmp_path):
    def identity_with(content: bytes, **changes) -> dict:
        (tmp_path / "verifier.safetensors").write_bytes(content)
        spec = replace(verified.spec, verifier=str(tmp_path / "verifier.safetensors"), **changes)
        objective.reward.model = replace(verified, spec=spec)
        return objective.identity()

    verified = objective.reward.model
    one = identity_with(b"one")
    assert one == identity_with(b"one")
    assert one["verifier_sha256"] != identity_with(b"two")["verifier_sha256"]
    assert one | {"model": "other"} == identity_with(b"one", name="other")


def test_the_validation_figure_is_minus_the_reward(objective):
    figure = begin(objective).validate(lambda source, embeds: source)
    batch = next(iter(objective.validation_batches()))
    with torch.no_grad():
        embeddings = {name: getattr(batch, name) for name in batch._fields[2:]}
        expected = -objective.reward(batch.source, embeddings).mean()
    assert figure == pytest.approx(float(expected), rel=1e-4)


def test_names_of_objectives_and_rewards_are_checked(tmp_path):
    assert find_objective("reward") is RewardObjective
    with pytest.raises(InvalidInput, match="pairs, reward"):
        find_objective("luck")
    write_manifest(tmp_path, {"settings": {"model": "shapes"}})
    with pytest.raises(InvalidInput, match="NAME:WEIGHT"):
        RewardObjective.open(tmp_path, replace(QUICK, rewards=("HPSv2:much",)), Accelerator(cpu=True))


def test_what_is_not_said_of_a_reward_is_the_models_own(verified, collected, monkeypatch):
    own = RewardSettings(num_inference_steps=5, num_steps=2)
    model = replace(verified, spec=replace(verified.spec, reward=own))
    monkeypatch.setattr("train.objectives.load_model", lambda *_, **__: model)
    opened = RewardObjective.open(collected, TrainingSettings(objective="reward"), Accelerator(cpu=True))
    assert opened.reward.settings == own
    given = TrainingSettings(objective="reward", reward_num_steps=1, reward_num_inference_steps=4)
    opened = RewardObjective.open(collected, given, Accelerator(cpu=True))
    assert opened.reward.settings == replace(own, num_steps=1, num_inference_steps=4)


# --- the verifier -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collected(tiny_shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collected")
    settings = CollectionSettings(
        model=tiny_shapes.spec.name, shard_size=8, num_inference_steps=5, targets=("source:0.9", "4x1")
    )
    for index in range(2):
        write_shard(folder, index, collect_shard(tiny_shapes, settings, index))
    write_manifest(folder, {"settings": {"model": tiny_shapes.spec.name, "num_inference_steps": 5}})
    return folder


def test_trajectories_lead_from_the_noise_to_the_image(tiny_shapes):
    noise = source_noise([1, 2], (4, 16, 16))
    latents, timesteps = trace(tiny_shapes, noise, ["a red star", "two circles"], [1, 2], 5)
    assert latents.shape == (2, len(timesteps), 4, 16, 16)
    assert torch.equal(latents[:, 0], noise.half())
    assert list(timesteps) == sorted(timesteps, reverse=True)
    assert timesteps[-1] == 1


def test_an_euler_trajectory_is_stored_as_ddim_has_it(tiny_shapes):
    def trace_with(sampler: str):
        sampling = replace(tiny_shapes.spec.sampling, sampler=sampler)
        model = replace(tiny_shapes, spec=replace(tiny_shapes.spec, sampling=sampling))
        return trace(model, source_noise([1, 2], (4, 16, 16)), ["a red star", "two circles"], [1, 2], 10)

    (euler, euler_timesteps), (ddim, timesteps) = trace_with("euler"), trace_with("ddim")
    assert euler_timesteps == timesteps
    assert torch.allclose(euler, ddim, atol=0.1)


def test_packed_latents_are_stored_unpacked(tiny_of_family):
    model = tiny_of_family("flux")
    noise = source_noise([1, 2], latent_shape(model.pipeline))
    latents, timesteps = trace(model, noise, ["a red star", "two circles"], [1, 2], 3)
    assert latents.shape == (2, len(timesteps), *noise.shape[1:])


def test_every_noise_of_a_folder_is_traced_once_and_cached(tiny_shapes, collected, tmp_path):
    data = read_trajectories(collected, tiny_shapes, "score", tmp_path)
    assert len(data) == 2 * (8 + 16)
    assert ((data.labels >= 0) & (data.labels <= 1)).all()
    again = read_trajectories(collected, tiny_shapes, "score", tmp_path)
    assert torch.equal(data.latents, again.latents)
    trained, held_out = split_held_out(data)
    assert len(trained) + len(held_out) == len(data)
    assert not set(trained.prompts) & set(held_out.prompts)
    with pytest.raises(InvalidInput, match="'HPSv2'"):
        read_trajectories(collected, tiny_shapes, "HPSv2", tmp_path / "other")


def test_trajectories_of_other_pairs_in_the_same_place_are_not_taken_for_these(tiny_shapes, collected, tmp_path):
    folder, cache = tmp_path / "pairs", tmp_path / "cache"
    shutil.copytree(collected, folder)
    before = read_trajectories(folder, tiny_shapes, "score", cache)
    shard = read_shard(folder, 1)
    write_shard(folder, 1, replace(shard, target_noise=-shard.target_noise))
    after = read_trajectories(folder, tiny_shapes, "score", cache)
    assert not torch.equal(before.latents, after.latents)
    read_trajectories(folder, tiny_shapes, "score", cache, bf16=True)
    assert len([*cache.iterdir()]) == 3


def test_what_other_weights_made_is_not_taken_for_the_models_own(tiny_shapes, collected, tmp_path, monkeypatch):
    monkeypatch.setattr(verifier_training, "load_model", lambda *_, **__: tiny_shapes)
    options = VerifierOptions(collected, tmp_path, label="score", num_scenes=2, num_steps=1, batch_size=4, device="cpu")
    for digest in ("one", "one", "other"):
        monkeypatch.setattr(verifier_training, "hash_model", lambda spec, digest=digest: {"unet": digest})
        train_verifier(options)
    one, other = (tmp_path / "cache").iterdir()
    assert len([*one.iterdir()]) == len([*other.iterdir()]) == 3  # trajectories, scenes, prompts
    assert (tmp_path / "verifier.safetensors").is_file()


def test_a_verifier_needs_prompts_to_train_on_but_none_to_validate_on(tiny_shapes, tmp_path):
    options = VerifierOptions(pairs=tmp_path, num_scenes=0, num_steps=1, batch_size=4, device="cpu")
    encode = partial(encode_anew, tiny_shapes.pipeline)
    nothing = made_up(4, 0).select(np.arange(0))
    trainer = VerifierTrainer(tiny_shapes, made_up(4, 0), None, encode, options)
    assert set(next(run(trainer, nothing, tmp_path))) == {"step", "loss"}
    with pytest.raises(InvalidInput, match="no prompts to train on"):
        VerifierTrainer(tiny_shapes, nothing, None, encode, options)


@pytest.mark.parametrize(
    ("asked", "rank", "num_workers", "device"),
    [
        ("auto", "0", "1", "cuda"),
        ("auto", "1", "4", "cuda:1"),
        ("cuda", "3", "4", "cuda:1"),  # more workers than GPUs
        ("cuda:0", "3", "4", "cuda:0"),
        ("cpu", "3", "4", "cpu"),
    ],
)
def test_workers_share_the_gpus_out(monkeypatch, asked, rank, num_workers, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", num_workers)):
        monkeypatch.setenv(name, value)
    assert workers.device_of_worker(asked) == device


def made_up(num: int, seed: int) -> Trajectories:
    """Latents whose mean says whether the image is right."""
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, num)).float()
    latents = torch.randn(num, 2, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    latents += 3 * (labels - 0.5).view(-1, 1, 1, 1, 1)
    return Trajectories(latents.half(), (501, 1), ("a red star",) * num, labels)


def test_a_verifier_learns_and_a_killed_training_continues_alike(tiny_shapes, tmp_path):
    options = VerifierOptions(
        pairs=tmp_path, num_scenes=0, num_steps=24, batch_size=16, checkpoint_every=12, learning_rate=3e-3, device="cpu"
    )
    encode = partial(encode_anew, tiny_shapes.pipeline)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = VerifierTrainer(tiny_shapes, made_up(64, 0), None, encode, options)
    *_, last = run(whole, made_up(64, 1), tmp_path / "whole")
    assert last["auc_501"] > 0.8
    assert last["auc_1"] > 0.8

    killed = VerifierTrainer(tiny_shapes, made_up(64, 0), None, encode, options)
    next(run(killed, made_up(64, 1), tmp_path / "killed"))
    continued = VerifierTrainer(tiny_shapes, made_up(64, 0), None, encode, options)
    resume(continued, tmp_path / "killed")
    assert continued.step == 12
    assert [*run(continued, made_up(64, 1), tmp_path / "killed")][-1] == last
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert steps == [12, 24]

    other = replace(options, learning_rate=1e-3)
    with pytest.raises(InvalidInput, match="learning_rate"):
        resume(VerifierTrainer(tiny_shapes, made_up(64, 0), None, encode, other), tmp_path / "killed")


def test_a_verifier_with_another_models_encoder_is_fine_tuned(tmp_path):
    flow = load_model("shapes-flow", device="cpu")
    start = MODELS["shapes-flow"].verifier
    options = VerifierOptions(tmp_path, start=start, num_scenes=0, num_steps=2, batch_size=4, device="cpu")
    data = replace(made_up(4, 0), timesteps=(715, 1))
    trainer = VerifierTrainer(flow, data, None, partial(encode_anew, flow.pipeline), options)
    assert same_weights(trainer.verifier, flow.verifier)
    pipeline = [value.clone() for value in trainer.verifier.owner.unet.parameters()]
    assert set([*run(trainer, data, tmp_path)][-1]) == {"step", "loss", "auc_715", "auc_1"}
    assert not same_weights(trainer.verifier, flow.verifier)
    assert all(map(torch.equal, pipeline, trainer.verifier.owner.unet.parameters()))

    continued = VerifierTrainer(flow, data, None, partial(encode_anew, flow.pipeline), options)
    resume(continued, tmp_path)
    assert same_weights(continued.verifier, trainer.verifier)
    (tmp_path / "other.safetensors").write_bytes(Path(start).read_bytes())
    other = replace(options, start=tmp_path / "other.safetensors")
    with pytest.raises(InvalidInput, match="start="):
        resume(VerifierTrainer(flow, data, None, partial(encode_anew, flow.pipeline), other), tmp_path)


def same_weights(one, other) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_scenes_are_the_same_however_many_workers_draw_them(tiny_shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(verifier_training, "SHARD", 4)
    options = VerifierOptions(pairs=tmp_path, num_scenes=10)
    alone = load_scenes(tiny_shapes, options, tmp_path / "alone")
    assert alone is not None
    assert len(alone) == 10
    assert 0 < alone.labels.mean() < 1
    monkeypatch.setattr(workers, "find_worker", lambda: (1, 2))
    monkeypatch.setattr(workers, "wait_for_workers", lambda: load_others(tmp_path / "both"))

    def load_others(cache):
        monkeypatch.undo()
        monkeypatch.setattr(verifier_training, "SHARD", 4)
        assert [path.name for path in (cache / "scenes-0").iterdir()] == ["00001-4.pt"]
        load_scenes(tiny_shapes, options, cache)

    both = load_scenes(tiny_shapes, options, tmp_path / "both")
    assert both is not None
    assert both.prompts == alone.prompts
    assert torch.equal(both.latents, alone.latents)


def test_a_checker_that_draws_nothing_leaves_the_images_alone(tiny_shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tiny_shapes.checker), "sample_examples", lambda self, rng: iter(()))
    assert load_scenes(tiny_shapes, VerifierOptions(pairs=tmp_path, num_scenes=10), tmp_path) is None


def test_area_under_the_curve_counts_pairs():
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert area_under_curve(torch.tensor([0.1, 0.4, 0.35, 0.8]), labels) == 0.75
    assert area_under_curve(torch.zeros(4), labels) == 0.5
    assert np.isnan(area_under_curve(torch.zeros(4), torch.ones(4)))
