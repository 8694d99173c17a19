"""Training on small made-up pairs: it learns, it resumes, its batches add up, and what it writes can be read."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from golden.errors import BadWeights, InvalidInput, run_command
from golden.noise import source_noise
from golden.npnet import NPNet, load_npnet, save_npnet
from golden.shapes import sample_caption
from train.checkpoints import TrainingFolder
from train.network import compute_in_bf16, make_npnet, start_from
from train.objectives import OBJECTIVES, Objective, PairsObjective, Sizes, find_objective
from train.pairs import Shard, read_shard, write_manifest, write_shard
from train.settings import Architecture, TrainingSettings
from train.stream import PairStream, Rows, choose_rows, keep_embeds
from train.train_npnet import main
from train.trainer import Trainer, TrainingDiverged, make_schedule, train

ROOT = Path(__file__).resolve().parents[1]
QUICK = TrainingSettings(filter="all", num_epochs=3, batch_size=16, learning_rate=3e-3, ema_decay=0.5)
SMALL = Architecture(keep_norm=False, swin_width=16)
STEADY = replace(SMALL, drop_path_rate=0.0)  # dropped paths are drawn anew for every part of a batch
NUM_PAIRS = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pairs whose target noise is the source noise moved by a fixed image: easy to learn."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    shift = torch.linspace(-0.5, 0.5, 16)[None, None, None].expand(1, 4, 16, 16)
    for shard in range(3):
        indices = range(32 * shard, 32 * shard + 32)
        source = source_noise(indices, (4, 16, 16))
        rows = pd.DataFrame({"index": indices, "prompt": [sample_caption(rng) for _ in indices], "target": "10x1"})
        rows["source_score"], rows["target_score"] = 0.5, rng.integers(0, 2, 32).astype(float)
        rows["target_right"] = rows["target_score"] > 0.5
        write_shard(folder, shard, Shard(source, source + shift, rows))
    write_manifest(folder, {"settings": {"model": "shapes", "targets": ["10x1"], "num_inference_steps": 2}})
    keep_embeds(folder)
    return folder


@pytest.fixture(scope="module")
def rows(folder) -> tuple[Rows, Rows]:
    return choose_rows(folder, "all")


def begin(
    folder: Path,
    rows: Rows,
    settings: TrainingSettings = QUICK,
    architecture: Architecture = SMALL,
    validation_rows: Rows | None = None,
) -> Trainer:
    validation_rows = rows[slice(0)] if validation_rows is None else validation_rows
    objective = PairsObjective(PairStream(folder), rows, validation_rows, settings)
    torch.manual_seed(settings.seed)
    return Trainer(settings, make_npnet(architecture, objective.sizes), objective)


def resume(
    folder: Path, rows: tuple[Rows, Rows], out: Path, settings: TrainingSettings = QUICK
) -> tuple[Trainer, TrainingFolder]:
    trainer = begin(folder, rows[0], settings, validation_rows=rows[1])
    training = TrainingFolder(out, asdict(settings) | asdict(SMALL) | trainer.objective.identity())
    trainer.resume(training)
    return trainer, training


def run(folder: Path, rows: tuple[Rows, Rows], out: Path, settings: TrainingSettings = QUICK, **options) -> NPNet:
    return train(*resume(folder, rows, out, settings), **options)


def read_log(out: Path) -> list[dict]:
    return TrainingFolder(out, {}).read_log()


def assert_equal(one: torch.nn.Module, two: torch.nn.Module) -> None:
    for (name, left), right in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


def test_it_learns_what_the_identity_does_not_know(folder, rows, tmp_path):
    network = run(folder, rows, tmp_path, replace(QUICK, num_epochs=15))
    log = read_log(tmp_path)
    assert [row["epoch"] for row in log] == [*range(1, 16)]
    assert log[-1]["validation"] < 0.5 * log[-1]["identity"]
    assert log[-1]["train"] < 0.5 * log[0]["train"]
    assert not network.training


class Killed(Exception):
    pass


@pytest.mark.parametrize("killed_in", ["step 4", "step 5", "step 12", "log", "save"])
def test_a_resumed_run_equals_an_unbroken_one(folder, rows, tmp_path, monkeypatch, killed_in):
    unbroken = run(folder, rows, tmp_path / "unbroken", checkpoint_every=2)

    def kill(*_, **__):
        raise Killed

    if killed_in == "log":
        monkeypatch.setattr(TrainingFolder, "save_checkpoint", kill)  # the row is there, its checkpoint is not
    elif killed_in == "save":
        monkeypatch.setattr("torch.save", lambda _, path: (path.write_bytes(b"half"), kill()))
    else:
        steps, real = iter(range(int(killed_in.split()[1]))), Trainer.advance
        monkeypatch.setattr(Trainer, "advance", lambda *args: kill() if next(steps, None) is None else real(*args))
    with pytest.raises(Killed):
        run(folder, rows, tmp_path / "broken", checkpoint_every=2)
    monkeypatch.undo()
    with open(tmp_path / "broken" / "log.jsonl", "a") as file:
        file.write('{"step": 99, "torn')
    assert_equal(run(folder, rows, tmp_path / "broken", checkpoint_every=2), unbroken)
    assert read_log(tmp_path / "broken") == read_log(tmp_path / "unbroken")


def test_a_finished_run_is_left_as_it_is(folder, rows, tmp_path):
    first = run(folder, rows, tmp_path)
    log = (tmp_path / "log.jsonl").read_bytes()
    assert_equal(run(folder, rows, tmp_path), first)
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_a_folder_holds_one_training(folder, rows, tmp_path):
    run(folder, rows, tmp_path)
    with pytest.raises(InvalidInput, match=r"learning_rate=0\.003, not 0\.5"):
        run(folder, rows, tmp_path, replace(QUICK, learning_rate=0.5))
    with pytest.raises(InvalidInput, match="pairs="):
        run(folder, (rows[0][slice(50)], rows[1]), tmp_path)


def test_other_data_with_as_many_rows_is_another_training(folder, rows, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(folder, other)
    run(folder, rows, out)
    run(other, rows, out)  # a copy is the same data
    shard = read_shard(other, 1)
    write_shard(other, 1, replace(shard, target_noise=-shard.target_noise))
    with pytest.raises(InvalidInput, match="data="):
        run(other, rows, out)
    write_shard(other, 1, shard)
    run(other, rows, out)
    settings = {"model": "shapes", "targets": ["10x1"], "num_inference_steps": 3}
    (other / "manifest.json").write_text(json.dumps({"settings": settings}))
    with pytest.raises(InvalidInput, match="data="):
        run(other, rows, out)


def test_a_hash_that_an_older_checkpoint_lacks_is_not_compared(tmp_path):
    TrainingFolder(tmp_path, asdict(QUICK)).save_checkpoint({"step": 3})
    assert TrainingFolder(tmp_path, asdict(QUICK) | {"data": "abc"}).load_checkpoint()["step"] == 3


def test_another_network_in_the_same_file_is_another_start(folder, rows, tmp_path):
    start, sizes = tmp_path / "start.safetensors", begin(folder, rows[0]).objective.sizes
    options = [str(folder), "--out", str(tmp_path / "out"), "--from", str(start), *CPU, "--filter", "all"]
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_npnet(start, make_npnet(SMALL, sizes))
        if seed == 0:
            assert main([*options, "--num-epochs", "1"]) == 0
            assert main([*options, "--num-epochs", "1"]) == 0
    with pytest.raises(InvalidInput, match="start_sha256="):
        main([*options, "--num-epochs", "1"])


def test_a_damaged_checkpoint_is_refused(tmp_path):
    training = TrainingFolder(tmp_path, {})
    training.save_checkpoint({"step": 3, "tensor": torch.zeros(100)})
    data = bytearray(training.checkpoint_path.read_bytes())
    data[len(data) // 2] ^= 1
    training.checkpoint_path.write_bytes(data)
    with pytest.raises(BadWeights, match="damaged"):
        training.load_checkpoint()


def test_a_checkpoint_from_before_a_setting_existed_had_its_default(tmp_path):
    old = asdict(QUICK) | asdict(SMALL) | {"pairs": "abc"}
    del old["objective"], old["kinds"]
    TrainingFolder(tmp_path, old).save_checkpoint({"step": 3})
    now = asdict(QUICK) | asdict(SMALL) | {"pairs": "abc"}
    assert TrainingFolder(tmp_path, now).load_checkpoint()["step"] == 3
    with pytest.raises(InvalidInput, match=r"kinds=\[\], not \['two'\]"):
        TrainingFolder(tmp_path, now | {"kinds": ("two",)}).load_checkpoint()


def poison(monkeypatch, first_bad: int) -> None:
    """Turn the target noise into NaN in every batch from number `first_bad` on."""
    real = PairsObjective.batches

    def batches(self, epoch: int, batch_size: int, start: int = 0):
        for number, batch in enumerate(real(self, epoch, batch_size, start), start):
            step = epoch * (self.num_rows // batch_size) + number
            yield batch if step < first_bad else batch._replace(target=batch.target * torch.nan)

    monkeypatch.setattr(PairsObjective, "batches", batches)


def test_nan_stops_training_and_keeps_the_last_good_checkpoint(folder, rows, tmp_path, monkeypatch):
    poison(monkeypatch, 5)
    with pytest.raises(TrainingDiverged, match=r"at step 6: the loss is nan\. The last checkpoint is kept"):
        run(folder, rows, tmp_path, checkpoint_every=2)
    saved = TrainingFolder(tmp_path, {}).load_checkpoint()
    assert saved["step"] == 4
    assert all(value.isfinite().all() for value in saved["network"].values() if value.is_floating_point())
    assert [row["step"] for row in read_log(tmp_path)] == [2, 4]
    monkeypatch.undo()
    run(folder, rows, tmp_path, checkpoint_every=2)  # goes on from there
    assert read_log(tmp_path)[-1]["step"] == 15


def test_weights_that_blow_up_are_not_saved(folder, rows, tmp_path):
    with pytest.raises(TrainingDiverged):
        run(folder, rows, tmp_path, replace(QUICK, learning_rate=1e30), checkpoint_every=1)
    assert not (tmp_path / "npnet.safetensors").exists()
    saved = TrainingFolder(tmp_path, {}).load_checkpoint()
    assert saved is None or all(value.isfinite().all() for value in saved["network"].values())


@pytest.mark.parametrize("micro_batch_size", [1, 5, 8, 16, 99])
def test_accumulated_gradients_are_those_of_the_large_batch(folder, rows, micro_batch_size):
    whole, parts = (
        begin(folder, rows[0], replace(QUICK, micro_batch_size=size), STEADY) for size in (None, micro_batch_size)
    )
    batch = next(whole.batches())
    assert whole.advance(batch) == pytest.approx(parts.advance(batch), abs=1e-6)
    for one, two in zip(whole.trained, parts.trained, strict=True):
        assert torch.allclose(one.grad, two.grad, rtol=0, atol=1e-6)


def test_each_sample_is_conditioned_on_its_own_prompt_unless_one_is_asked_for(folder, rows):
    own, shared = (begin(folder, rows[0], replace(QUICK, one_prompt_per_batch=one)) for one in (False, True))
    seen = []
    for training in (own, shared):
        training.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
        training.advance(next(training.batches()))
    assert all(not torch.equal(seen[0][i], seen[0][j]) for i in range(16) for j in range(i))
    assert torch.equal(seen[1], seen[0][:1].expand_as(seen[0]))


def test_bfloat16_stays_near_and_out_of_the_singular_branch(folder, rows):
    training = begin(folder, rows[0], architecture=STEADY)
    batch = next(training.batches())
    network = training.network.eval()
    with torch.no_grad():
        network.alpha.fill_(0.5)
        network.beta.fill_(0.5)
        torch.nn.init.normal_(network.layout.mean.weight, std=0.1)
        exact = network.branches(batch.source, batch.prompt_embeds)
        compute_in_bf16(network)
        rounded = network.branches(batch.source, batch.prompt_embeds)
    assert torch.equal(exact["singular"], rounded["singular"])
    for name in ("text_embedding", "residual", "layout"):
        assert not torch.equal(exact[name], rounded[name].float()), name
        assert torch.allclose(exact[name], rounded[name].float(), rtol=2**-7, atol=0.05), name
    assert rounded["golden"].dtype == torch.float32


def test_bfloat16_learns_as_well_and_leaves_the_average_in_full_precision(folder, rows, tmp_path):
    network = run(folder, rows, tmp_path, replace(QUICK, num_epochs=15, bf16=True))
    assert read_log(tmp_path)[-1]["validation"] < 0.5 * read_log(tmp_path)[-1]["identity"]
    batch = PairStream(folder).first(rows[0])
    with torch.no_grad():
        assert network.branches(batch.source, batch.prompt_embeds)["layout"].dtype == torch.float32


@pytest.mark.parametrize("schedule", ["cosine", "constant", "linear", "cosine_with_restarts"])
def test_the_learning_rate_follows_its_schedule(folder, rows, schedule):
    training = begin(folder, rows[0], replace(QUICK, schedule=schedule, num_epochs=4))
    rates = []
    for batch in training.batches():
        rates.append(training.schedule.get_last_lr()[0])
        training.advance(batch)
    if schedule == "constant":
        assert set(rates) == {3e-3}
    else:
        top = rates.index(max(rates))
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)
        assert rates[-1] < 0.06 * max(rates)


def test_every_schedule_that_is_offered_can_be_made():
    for name in TrainingSettings.__dataclass_fields__["schedule"].metadata["choices"]:
        optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1)
        schedule = make_schedule(name, optimizer, 0.1, 40)
        for _ in range(40):
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize("num_steps", [1, 18, 19, 20, 39])
def test_a_short_training_has_a_schedule(num_steps):
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = make_schedule("cosine", optimizer, 0.1, num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert all(0 < rate <= 0.1 for rate in rates)


def test_the_change_of_fewer_pairs_than_a_batch_is_measured(folder, rows):
    assert begin(folder, rows[0][slice(5)]).measure_change() >= 0


def test_fewer_pairs_than_a_batch_are_one_batch(folder, rows):
    training = begin(folder, rows[0][slice(5)])
    assert [len(batch.target) for batch in training.batches()] == [5] * QUICK.num_epochs


def test_ablations_are_built_in():
    sizes = Sizes(4, 16, 16, 77, 32)
    config = make_npnet(replace(SMALL, attention=False, text_map_size=1, layout_rank=0), sizes).config
    assert (config.singular.attention, config.text.map_size, config.layout) == (False, 1, None)
    config = make_npnet(replace(SMALL, singular=False, text=False), sizes).config
    assert (config.singular, config.text) == (None, None)
    assert make_npnet(replace(SMALL, residual=False), sizes).config.residual is None


class Shrinking(Objective):
    """Another objective: no pairs and no target, the golden noise shall be as small as can be."""

    figure_name = "mean square of the golden noise"
    num_rows, num_validation_rows, sizes = 32, 8, Sizes(4, 16, 16, 7, 8)

    @classmethod
    def open(cls, data, settings, accelerator):
        return cls()

    def batches(self, epoch, batch_size, start=0):
        for number in range(start, self.num_rows // batch_size):
            yield self.make_batch(range(number * batch_size, (number + 1) * batch_size))

    def validation_batches(self):
        yield self.make_batch(range(100, 108))

    def make_batch(self, seeds):
        Noises = namedtuple("Noises", ["source"])
        return Noises(source_noise(seeds, self.sizes[:3]))

    def loss(self, network, batch):
        return network(batch.source, torch.zeros(len(batch.source), *self.sizes[3:])).square().mean()

    def figure(self, network, batch):
        return -self.loss(network, batch)

    def identity(self):
        return {}


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_an_objective_brings_its_own_data_loss_and_figure(tmp_path, micro_batch_size):
    settings = replace(QUICK, objective="shrinking", micro_batch_size=micro_batch_size, num_epochs=10)
    torch.manual_seed(0)
    trainer = Trainer(settings, make_npnet(SMALL, Shrinking.sizes), Shrinking())
    training = TrainingFolder(tmp_path, asdict(settings))
    trainer.resume(training)
    train(trainer, training)
    log = training.read_log()
    assert log[0]["identity"] == pytest.approx(-1, abs=0.1)
    assert -0.5 < log[-1]["validation"] < 0
    assert log[-1]["train"] < 0.5 * log[0]["train"]


def test_an_unknown_objective_lists_what_there_is():
    assert find_objective("pairs") is OBJECTIVES["pairs"]
    with pytest.raises(InvalidInput, match="'nope': choose one of pairs"):
        find_objective("nope")


def test_a_network_to_fine_tune_has_gradients_where_a_new_one_has():
    network = start_from(str(ROOT / "assets" / "shapes" / "npnet.safetensors"))
    expected = [parameter.requires_grad for parameter in NPNet(network.config).parameters()]
    assert [parameter.requires_grad for parameter in network.parameters()] == expected
    assert any(expected)
    assert network.training


CPU = ["--device", "cpu"]
OPTIONS = ["--filter", "all", "--num-epochs", "1", "--swin-width", "16", "--batch-size", "16"]


def command(folder: Path, out: Path, *options: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    arguments = [sys.executable, *launcher, "train/train_npnet.py", str(folder), "--out", str(out), *CPU, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
def test_the_command_writes_what_it_learnt_and_saw(folder, tmp_path):
    pytest.importorskip("tensorboard")
    done = command(folder, tmp_path, *OPTIONS, "--sample-every", "3", "--tensorboard")
    assert done.returncode == 0, done.stderr
    assert load_npnet(tmp_path / "npnet.safetensors").config.height == 16
    about = json.loads((tmp_path / "settings.json").read_text())
    assert torch.__version__.startswith(about["run"]["versions"]["torch"])
    assert about["num_pairs"] > 80
    sampled = [row for row in read_log(tmp_path) if "golden_HPSv2" in row]
    assert [row["step"] for row in sampled] == [0, 3, 5]
    assert {"source_right", "golden_right", "source_MPS", "golden_MPS"} < set(sampled[0])
    assert len({row["source_AES"] for row in sampled}) == 1
    assert len({row["golden_AES"] for row in sampled}) == 3
    assert len([*(tmp_path / "samples").glob("step-*.png")]) == 3
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("golden_HPSv2")] == [0, 3, 5]
    assert events.Scalars("validation")[0].value == pytest.approx(about["figures"]["validation"])
    assert events.Images("source above golden")


def test_a_training_that_diverges_ends_with_one_sentence_and_exit_code_1(folder, tmp_path):
    done = command(folder, tmp_path, *OPTIONS, "--learning-rate", "1e30", "--schedule", "constant")
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("Training diverged at step ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "npnet.safetensors").exists()


@pytest.mark.slow
def test_two_workers_learn_what_one_learns(folder, tmp_path):
    options = [*OPTIONS, "--drop-path-rate", "0"]
    one = command(folder, tmp_path / "one", *options)
    two = command(
        folder,
        tmp_path / "two",
        *options,
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    )
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    logs = [read_log(tmp_path / name)[-1] for name in ("one", "two")]
    for name in ("train", "validation", "identity"):
        assert logs[0][name] == pytest.approx(logs[1][name], abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        ["--filter", "nope"],
        ["--batch-size", "0"],
        ["--objective", "nope"],
        ["--device", "nope"],
        ["--kinds", "nope"],
        ["--from", "nowhere.safetensors"],
        ["--from", str(ROOT / "assets" / "shapes" / "npnet.safetensors"), "--no-text"],
    ],
)
def test_bad_arguments_end_in_one_line(folder, tmp_path, monkeypatch, capsys, options):
    monkeypatch.setattr("sys.argv", ["train_npnet.py", str(folder), "--out", str(tmp_path), *CPU, *options])
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
