"""Targets by gradient ascent: better for the verifier, collected and trained on as any other kind."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from golden.errors import InvalidInput, MissingWeights
from golden.models import MODELS
from golden.noise import source_noise
from golden.npnet import NPNet, load_npnet
from golden.pipelines import encode_anew, latent_shape
from golden.reward import ASCENDED_AT_ONCE, SINGLE_STEP_SIZE, Reward
from golden.verifier import make_verifier, save_verifier
from train.collection import collect_here, open_collection, resolve_settings
from train.objectives import PairsObjective
from train.pairs import read_manifest, read_rows, read_shard
from train.settings import Architecture, CollectionSettings, TrainingSettings
from train.targets import make_target
from train.train_npnet import TrainingOptions, run_training

SETTINGS = CollectionSettings(shard_size=4, num_inference_steps=2, targets=("source", "ascent2"), filter="all")
PROMPTS = ["a star", "a heart", "a red circle", "two blue squares"]


@pytest.fixture
def with_verifier(tiny_embedded_model, tiny_model, tmp_path):
    """The tiny embedded model with a file of a verifier."""
    torch.manual_seed(3)
    save_verifier(tmp_path / "verifier.safetensors", make_verifier(tiny_model.pipeline, hidden=8))
    spec = replace(MODELS["shapes"], verifier=str(tmp_path / "verifier.safetensors"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "shapes", replace(spec, reward=replace(spec.reward, num_steps=1)))
        yield tmp_path / "verifier.safetensors"


def make(model, name: str, source: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return make_target(name, model, SETTINGS, source, encode_anew(model.pipeline, prompts))


def test_more_steps_of_ascent_please_the_verifier_more_at_the_same_norm(tiny_shapes):
    source, embeddings = source_noise([1, 2], latent_shape(tiny_shapes.pipeline)), PROMPTS[:2]
    reward, encoded = Reward(tiny_shapes, tiny_shapes.spec.reward), encode_anew(tiny_shapes.pipeline, embeddings)
    targets = [source, *(make(tiny_shapes, name, source, embeddings) for name in ("ascent2", "ascent6"))]
    with torch.no_grad():
        before, once, thrice = (reward(noise, encoded) for noise in targets)
    assert (before < once).all()
    assert (once < thrice).all()
    norms = [noise.flatten(1).norm(dim=1) for noise in targets]
    assert torch.allclose(norms[0], norms[2], rtol=1e-5)
    assert not any(noise.requires_grad for noise in targets)


def test_ascent_starts_from_the_norm_that_is_asked_for(tiny_shapes):
    source = source_noise([1, 2], latent_shape(tiny_shapes.pipeline))
    smaller = make(tiny_shapes, "ascent1:0.7", source, PROMPTS[:2])
    assert torch.equal(smaller, make(tiny_shapes, "ascent1", 0.7 * source, PROMPTS[:2]))
    assert torch.equal(
        make(tiny_shapes, "ascent", source, PROMPTS[:2]), make(tiny_shapes, "ascent12", source, PROMPTS[:2])
    )


def test_a_row_ascends_alike_in_any_batch(tiny_shapes):
    num = ASCENDED_AT_ONCE + 2
    source = source_noise(range(num), latent_shape(tiny_shapes.pipeline))
    prompts = [PROMPTS[index % 4] for index in range(num)]
    together = make(tiny_shapes, "ascent1", source, prompts)
    for row in (0, num - 1):
        alone = make(tiny_shapes, "ascent1", source[row : row + 1], prompts[row : row + 1])
        assert torch.allclose(together[row : row + 1], alone, atol=1e-3)


def test_ascent_is_collected_recorded_resumed_and_trained_on(with_verifier, tmp_path):
    folder = tmp_path / "pairs"

    def collect() -> None:
        collection = open_collection(folder, SETTINGS, None, 8, "cpu")
        collect_here(collection, lambda shard: None)

    collect()
    before = read_shard(folder, 1)
    assert set(read_rows(folder)["target"]) == {"source", "ascent2"}
    moved = before.target_noise - before.source_noise
    assert not moved[:4].any()
    assert (moved[4:].flatten(1).norm(dim=1) > 0.01).all()
    sources = read_manifest(folder)["sources"]
    assert len(sources["verifier"]) == 64
    assert sources["reward"]["num_steps"] == 1
    for path in folder.glob("shard-00001*"):
        path.unlink()
    collect()
    assert torch.equal(read_shard(folder, 1).target_noise, before.target_noise)

    training = TrainingSettings(filter="all", targets=("ascent2",), num_epochs=1, batch_size=2)
    architecture = Architecture(singular=False, residual=False, text=False, layout_rank=4)
    run_training(TrainingOptions(data=folder, out=tmp_path / "npnet", device="cpu"), training, architecture)
    assert load_npnet(tmp_path / "npnet" / "npnet.safetensors") is not None


def test_a_copy_of_the_denoiser_learns_freely_and_is_scaled_to_its_distance(with_verifier, tmp_path):
    settings = replace(SETTINGS, targets=("gradient",))
    collect_here(open_collection(tmp_path / "pairs", settings, None, 8, "cpu"), lambda shard: None)
    training = TrainingSettings(filter="all", num_epochs=2, batch_size=4, learning_rate=1e-3)
    architecture = Architecture(
        singular=False, residual=False, text=False, layout_rank=0, denoiser=True, change_rms=0.1, keep_norm=False
    )

    def train(name: str, settings: TrainingSettings, architecture: Architecture) -> NPNet:
        options = TrainingOptions(data=tmp_path / "pairs", out=tmp_path / name, device="cpu")
        run_training(options, settings, architecture)
        return load_npnet(tmp_path / name / "npnet.safetensors")

    first = train("first", training, architecture)
    further = train("further", replace(training, start=str(tmp_path / "first" / "npnet.safetensors")), Architecture())
    loss = json.loads((tmp_path / "first" / "log.jsonl").read_text().splitlines()[0])["train"]
    assert loss < 2 * SINGLE_STEP_SIZE**2  # at the distance that is asked for it would be 0.01
    pairs = PairsObjective.open(tmp_path / "pairs", training, Accelerator(cpu=True))
    assert measure_change(first, pairs) == pytest.approx(0.1, rel=0.02)
    assert further.config.change_gain == first.config.change_gain > 1
    # What is trained further is golden noise as the file makes it, and not the change before its gain.
    train(
        "still",
        replace(training, start=str(tmp_path / "first" / "npnet.safetensors"), learning_rate=1e-12),
        Architecture(),
    )
    loss = json.loads((tmp_path / "still" / "log.jsonl").read_text().splitlines()[0])["train"]
    with torch.no_grad():
        errors = [F.mse_loss(first(b.source, b.prompt_embeds), b.target) for b in pairs.batches(0, 4)]
    assert loss == pytest.approx(torch.stack(errors).mean().item(), rel=1e-3)
    # Unless a distance is asked for anew: then it learns as at first, without a gain, and gets another one.
    start = replace(training, start=str(tmp_path / "first" / "npnet.safetensors"))
    rescaled = train("rescaled", start, Architecture(change_rms=0.05))
    assert measure_change(rescaled, pairs) == pytest.approx(0.05, rel=0.02)
    loss = json.loads((tmp_path / "rescaled" / "log.jsonl").read_text().splitlines()[0])["train"]
    assert loss < 2 * SINGLE_STEP_SIZE**2
    records = [json.loads(network.metadata["training"]) for network in (first, further)]
    assert records[0]["settings"]["denoiser"] is True
    assert "denoiser" not in records[1]["settings"]  # it is the file's
    assert records[1]["before"] == records[0]
    assert not torch.equal(first.denoiser.network.conv_in.weight, further.denoiser.network.conv_in.weight)


def measure_change(network: NPNet, pairs: PairsObjective) -> float:
    with torch.no_grad():
        changes = [network(batch.source, batch.prompt_embeds) - batch.source for batch in pairs.batches(0, 4)]
    return torch.cat(changes).square().mean().sqrt().item()


@pytest.mark.parametrize("change_rms", [0.0, -0.1, 3.0, float("nan")])
def test_an_impossible_distance_is_refused_before_training(change_rms):
    with pytest.raises(InvalidInput, match="--change-rms must be above 0 and at most 2, got"):
        Architecture(change_rms=change_rms)


def test_another_verifier_is_another_data_set(with_verifier, tmp_path, tiny_model):
    open_collection(tmp_path / "pairs", SETTINGS, None, 4, "cpu")
    save_verifier(with_verifier, make_verifier(tiny_model.pipeline, hidden=8))
    with pytest.raises(InvalidInput, match="was collected with verifier="):
        open_collection(tmp_path / "pairs", SETTINGS, None, 4, "cpu")


@pytest.mark.parametrize("target", ["ascent", "ascent12", "ascent2:0.8", "gradient"])
def test_ascent_without_a_verifier_is_refused_before_any_work(target, tmp_path, tiny_embedded_model):
    settings = replace(SETTINGS, targets=("10x1", target))
    with pytest.raises(MissingWeights, match=r"^There is no verifier for 'shapes': train one"):
        open_collection(tmp_path / "pairs", settings, None, 4, "cpu")
    assert not (tmp_path / "pairs").exists()
    with pytest.raises(MissingWeights, match="There is no verifier at nowhere"):
        resolve_settings(replace(settings, verifier="nowhere"))


def test_names_after_a_valid_one_are_checked_as_well(with_verifier):
    with pytest.raises(InvalidInput, match="A target is 'source'"):
        resolve_settings(replace(SETTINGS, targets=("ascent1", "ascentt")))
