"""Training on small made-up pairs: it learns, it resumes, filters keep what they say, prompts are held out."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from golden.errors import InvalidInput
from golden.noise import source_noise
from golden.npnet import load_npnet
from golden.shapes import parse_caption, sample_caption
from train.pairs import Shard, write_manifest, write_shard
from train.train_npnet import FILTERS, Settings, find_filter, is_best, load_pairs, make_npnet, mean_squared_error, train

ROOT = Path(__file__).resolve().parents[1]
QUICK = Settings(num_epochs=3, batch_size=16, learning_rate=3e-3, ema_decay=0.5, swin_width=16)
NUM_PAIRS = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pairs whose target noise is the source noise moved by a fixed picture: easy to learn."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    prompts = [sample_caption(rng) for _ in range(NUM_PAIRS)]
    source = source_noise(range(NUM_PAIRS), (4, 16, 16))
    picture = torch.linspace(-0.5, 0.5, 16)[None, None, None].expand(1, 4, 16, 16)
    right = rng.random((2, NUM_PAIRS)) < 0.5
    rows = pd.DataFrame({"index": range(NUM_PAIRS), "prompt": prompts, "seed": range(NUM_PAIRS), "target": "10x1"})
    for side, values in zip(("source", "target"), right, strict=True):
        rows[f"{side}_right"], rows[f"{side}_score"] = values, values.astype(float)
    write_shard(folder, 0, Shard(source, source + picture, rows))
    write_manifest(folder, {"settings": {"model": "shapes", "targets": ["10x1"]}})
    return folder


def test_it_learns_what_the_identity_does_not_know(folder, tmp_path):
    pairs, rows, held_out = load_pairs(folder, "all")
    network = train(replace(QUICK, num_epochs=12), pairs, rows, held_out, tmp_path, None)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [*range(1, 13)]
    assert log[-1]["validation"] < 0.5 * log[-1]["identity"]
    assert mean_squared_error(network, pairs, held_out) == pytest.approx(log[-1]["validation"])
    assert not network.training


def test_validation_prompts_are_not_trained_on(folder):
    pairs, rows, held_out = load_pairs(folder, "all")
    assert len(rows) + len(held_out) == NUM_PAIRS
    assert len(held_out) > 0
    assert not set(pairs.prompt_index[rows].tolist()) & set(pairs.prompt_index[held_out].tolist())


def test_each_sample_is_conditioned_on_its_own_prompt(folder):
    pairs, rows, _ = load_pairs(folder, "all")
    _, embeds, _ = pairs.rows(rows[:8])
    assert all(not torch.equal(embeds[i], embeds[j]) for i in range(8) for j in range(i))


def test_a_resumed_run_equals_an_unbroken_one(folder, tmp_path, monkeypatch):
    pairs, rows, held_out = load_pairs(folder, "all")
    unbroken = train(QUICK, pairs, rows, held_out, make(tmp_path / "unbroken"), None)

    import train.train_npnet as module

    done, first = make(tmp_path / "broken"), module.mean_squared_error
    calls = []

    def stop_in_the_second_epoch(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return first(*arguments)

    monkeypatch.setattr(module, "mean_squared_error", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(QUICK, pairs, rows, held_out, done, None)
    monkeypatch.undo()
    resumed = train(QUICK, pairs, rows, held_out, done, None)
    for (name, one), two in zip(unbroken.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def make(path: Path) -> Path:
    path.mkdir()
    return path


def test_filters_keep_what_they_say():
    rows = pd.DataFrame({"source_score": [0.5, 1.0, 1.0, 0.0], "target_score": [1.0, 1.0, 0.5, 0.5]})
    rows["target_right"] = rows["target_score"] == 1
    kept = {name: FILTERS[name](rows).tolist() for name in ("all", "improved", "not_worse", "right")}
    assert kept == {
        "all": [True, True, True, True],
        "improved": [True, False, False, True],
        "not_worse": [True, True, False, True],
        "right": [True, True, False, False],
    }


def test_the_best_target_of_each_source_is_kept_where_they_differ():
    rows = pd.DataFrame({"index": [0, 1, 2, 0, 1, 2, 0, 1, 2], "target_score": [0.5, 1, 1, 1, 1, 0, 1, 1, 0.5]})
    assert is_best(rows).tolist() == [False, False, True, True, False, False, True, False, False]


def test_judges_filter_one_by_one_together_and_by_vote():
    gains = {"HPSv2": [1.0, 0.1, 1.0], "AES": [1.0, 1.0, -1.0], "MPS": [0.0, 1.0, -1.0]}
    rows = pd.DataFrame({f"source_{name}": [5.0] * 3 for name in gains})
    for name, gain in gains.items():
        rows[f"target_{name}"] = 5 + np.array(gain)

    def kept(name: str, margin: float = 0.0) -> list[bool]:
        return find_filter(name, [*rows.columns], margin)(rows).tolist()

    assert kept("HPSv2") == [True, True, True]
    assert kept("HPSv2", 0.5) == [True, False, True]
    assert kept("MPS") == [False, True, False]  # a tie is no gain
    assert kept("HPSv2+AES") == [True, True, False]
    assert kept("vote") == [True, True, False]


@pytest.mark.parametrize("name", ["nope", "", "PickScore", "HPSv2+nope", "HPSv2+", "vote+HPSv2"])
def test_an_unknown_filter_lists_what_there_is(name):
    with pytest.raises(InvalidInput, match=r"all, improved, .*, HPSv2, vote"):
        find_filter(name, ["target_HPSv2", "source_HPSv2", "target_score"])


def test_judges_that_were_not_recorded_cannot_filter():
    with pytest.raises(InvalidInput, match="Unknown filter 'vote'"):
        find_filter("vote", ["target_score"])


def test_captions_of_other_kinds_are_left_alone(folder):
    pairs, rows, held_out = load_pairs(folder, "all", kinds=["counting", "position"])
    assert len(rows) + len(held_out) == NUM_PAIRS
    rng = np.random.default_rng(0)
    wanted = [parse_caption(sample_caption(rng)).category in ("counting", "position") for _ in range(NUM_PAIRS)]
    assert 0 < sum(wanted) < NUM_PAIRS
    assert (pairs.target != pairs.source).flatten(1).any(1).tolist() == wanted


def test_kinds_of_target_can_be_told_apart(folder):
    _, rows, held_out = load_pairs(folder, "all", ["10x1"])
    assert len(rows) + len(held_out) == NUM_PAIRS
    with pytest.raises(InvalidInput, match="no target '20x3'"):
        load_pairs(folder, "all", ["20x3"])


def test_a_filter_that_keeps_nothing_is_refused(folder, monkeypatch):
    monkeypatch.setitem(FILTERS, "right", lambda rows: pd.Series(False, rows.index))
    with pytest.raises(InvalidInput, match="keeps none of the 96 pairs"):
        load_pairs(folder, "right")


def test_ablations_are_built_in(folder):
    pairs, _, _ = load_pairs(folder, "all")
    config = make_npnet(replace(QUICK, singular=False, attention=False, text_map_size=1), pairs).config
    assert (config.use_singular, config.attention, config.text_map_size) == (False, False, 1)


def test_the_command_writes_a_network_that_loads(folder, tmp_path):
    command = [sys.executable, "train/train_npnet.py", str(folder), "--out", str(tmp_path / "npnet")]
    options = ["--filter", "all", "--num-epochs", "1", "--swin-width", "16"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert load_npnet(tmp_path / "npnet" / "npnet.safetensors").config.height == 16
    about = json.loads((tmp_path / "npnet" / "settings.json").read_text())
    assert about["num_pairs"] > 80
    refused = subprocess.run([*command[:2], str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
