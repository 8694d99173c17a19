"""The stream of pairs: the chosen ones, each once an epoch, in an order that resumes, in memory that is given back."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from golden.errors import BadWeights, InvalidInput
from golden.model import load_model
from golden.noise import source_noise
from golden.pipelines import encode_anew
from golden.shapes import parse_caption, sample_caption
from train.filters import FILTERS
from train.pairs import Shard, shard_paths, write_manifest, write_shard
from train.stream import (
    PairStream,
    Rows,
    choose_rows,
    embeds_folder,
    find_default_filter,
    held_out_prompts,
    is_held_out,
    keep_embeds,
    shuffle,
)

NUM_SHARDS, SHARD_SIZE = 6, 10
NUM_PAIRS = NUM_SHARDS * SHARD_SIZE


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Sixty pairs; the index of each can be read from its target noise."""
    folder = tmp_path_factory.mktemp("pairs")
    write_manifest(folder, {"settings": {"model": "shapes", "targets": ["10x1"]}})
    write_pairs(folder, np.random.default_rng(2))  # some of whose prompts are held out
    keep_embeds(folder)
    return folder


def write_pairs(folder: Path, rng: np.random.Generator, judged: bool = True) -> None:
    for shard in range(NUM_SHARDS):
        indices = range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE)
        source = source_noise(indices, (4, 2, 2))
        target = torch.tensor([float(index) for index in indices])[:, None, None, None].expand_as(source)
        rows = pd.DataFrame({"index": indices, "target": "10x1", "prompt": [sample_caption(rng) for _ in indices]})
        if judged:
            rows["target_score"] = rows["index"] % 2 * 1.0
            rows["target_right"] = rows["target_score"] == 1
            rows["source_score"] = 0.5
        write_shard(folder, shard, Shard(source, target, rows))


def indices_of(batches) -> list[int]:
    return [int(index) for batch in batches for index in batch.target[:, 0, 0, 0]]


def everything(folder: Path) -> Rows:
    """All rows, in order."""
    index = np.arange(NUM_PAIRS, dtype=np.int32)
    return Rows(index // SHARD_SIZE, index % SHARD_SIZE, np.zeros(NUM_PAIRS, bool))


def test_rows_are_chosen_by_the_filter_and_split_by_prompt(folder):
    train, validation = choose_rows(folder, "all")
    stream = PairStream(folder)
    rows, held_out = (indices_of(stream.batches(part, 7)) for part in (train, validation))
    assert sorted(rows + held_out) == [*range(NUM_PAIRS)]
    assert len(held_out) > 0
    prompts = pd.concat([pd.read_parquet(shard_paths(folder, i)[1]) for i in range(NUM_SHARDS)])["prompt"].tolist()
    assert held_out == [index for index, prompt in enumerate(prompts) if is_held_out(prompt)]
    assert held_out_prompts(folder, 2) == [prompts[index] for index in held_out[:2]]
    improved, _ = choose_rows(folder, "improved")
    assert indices_of(stream.batches(improved, 7)) == [index for index in rows if index % 2]


def test_a_filter_that_keeps_nothing_is_refused(folder, monkeypatch):
    monkeypatch.setitem(FILTERS, "right", lambda rows: pd.Series(False, rows.index))
    with pytest.raises(InvalidInput, match="keeps none of the 60 pairs"):
        choose_rows(folder, "right")


def test_kinds_of_target_can_be_told_apart(folder):
    train, validation = choose_rows(folder, "all", ["10x1"])
    assert len(train) + len(validation) == NUM_PAIRS
    with pytest.raises(InvalidInput, match="no target '20x3'"):
        choose_rows(folder, "all", ["20x3"])


def test_an_empty_folder_is_refused(tmp_path):
    write_manifest(tmp_path, {"settings": {"model": "shapes"}})
    with pytest.raises(InvalidInput, match="no pairs"):
        choose_rows(tmp_path, "all")


def test_the_default_filter_is_that_of_the_recorded_figures(folder, tmp_path):
    assert find_default_filter(folder) == "right"
    write_manifest(tmp_path, {"settings": {"model": "shapes"}})
    with pytest.raises(InvalidInput, match="no pairs"):
        find_default_filter(tmp_path)
    write_pairs(tmp_path, np.random.default_rng(0), judged=False)
    with pytest.raises(InvalidInput, match="--filter all"):
        find_default_filter(tmp_path)


def test_an_unknown_category_of_caption_is_refused(folder):
    with pytest.raises(InvalidInput, match="'nope'"):
        choose_rows(folder, "all", kinds=["nope"])


def test_labels_of_other_kinds_have_the_sources_direction_and_the_targets_norm(folder):
    rows, _ = choose_rows(folder, "all", kinds=["counting", "position"])
    shards = [pd.read_parquet(shard_paths(folder, i)[1]) for i in range(NUM_SHARDS)]
    wanted = [
        parse_caption(shards[shard]["prompt"][row]).category in ("counting", "position")
        for shard, row in zip(rows.shard, rows.row, strict=True)
    ]
    assert 0 < sum(wanted) < len(rows)
    (batch,) = PairStream(folder).batches(rows, len(rows))
    everywhere, _ = choose_rows(folder, "all")
    (plain,) = PairStream(folder).batches(everywhere, len(everywhere))
    for learnt, label, target, source in zip(wanted, batch.target, plain.target, plain.source, strict=True):
        assert torch.allclose(label, target if learnt else source * target.norm() / source.norm())


@pytest.mark.parametrize("batch_size", [1, 7, 10, 100])
def test_every_pair_comes_once_an_epoch_in_another_order(folder, batch_size):
    orders = [
        indices_of(PairStream(folder).batches(shuffle(everything(folder), 0, epoch), batch_size)) for epoch in (0, 1)
    ]
    assert [sorted(order) for order in orders] == [[*range(NUM_PAIRS)]] * 2
    assert orders[0] != orders[1]
    assert orders[0] == indices_of(PairStream(folder).batches(shuffle(everything(folder), 0, 0), batch_size))


@pytest.mark.parametrize("start", [0, 1, 4, 8, 9])
def test_a_stream_goes_on_in_mid_epoch(folder, start):
    rows = shuffle(everything(folder), 3, 0)
    stream = PairStream(folder)
    whole, rest = ([*stream.batches(rows, 7, start=first)] for first in (0, start))
    assert len(rest) == len(whole) - start
    for one, two in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))


def test_shards_are_mixed_within_a_window_and_no_further(folder, monkeypatch):
    monkeypatch.setattr("train.stream.SHUFFLED_TOGETHER", 2 * SHARD_SIZE)
    order = shuffle(everything(folder), 0, 0).shard
    windows = [set(order[first : first + 2 * SHARD_SIZE]) for first in range(0, NUM_PAIRS, 2 * SHARD_SIZE)]
    assert [len(window) for window in windows] == [2, 2, 2]
    assert any(len(set(order[first : first + SHARD_SIZE])) == 2 for first in range(0, NUM_PAIRS, SHARD_SIZE))


def test_a_shard_is_read_once_and_forgotten_after_its_last_pair(folder, monkeypatch):
    monkeypatch.setattr("train.stream.SHUFFLED_TOGETHER", 2 * SHARD_SIZE)
    stream, read, most = PairStream(folder), [], 0
    real = stream._read
    monkeypatch.setattr(stream, "_read", lambda shard: read.append(shard) or real(shard))
    generator = stream.batches(shuffle(everything(folder), 0, 0), 5)
    for _ in generator:
        most = max(most, len(generator.gi_frame.f_locals["held"]))
    assert sorted(read) == [*range(NUM_SHARDS)]
    assert most == 2


def test_each_pair_has_its_own_prompts_embeddings(folder):
    rows = shuffle(everything(folder), 0, 0)
    (batch,) = PairStream(folder).batches(rows, NUM_PAIRS)
    shards = [pd.read_parquet(shard_paths(folder, i)[1])["prompt"] for i in range(NUM_SHARDS)]
    prompts = [shards[shard][row] for shard, row in zip(rows.shard, rows.row, strict=True)]
    expected = encode_anew(load_model("shapes").pipeline, prompts)["prompt_embeds"]
    assert torch.allclose(batch.prompt_embeds, expected, atol=1e-5)


def test_embeddings_are_made_once_and_those_of_other_prompts_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("train.stream.load_model", lambda *_, **__: pytest.fail("the model was loaded again"))
    keep_embeds(folder)
    write_manifest(tmp_path, {"settings": {"model": "shapes", "targets": ["10x1"]}})
    write_pairs(tmp_path, np.random.default_rng(1))
    embeds_folder(tmp_path).parent.mkdir()
    embeds_folder(tmp_path).symlink_to(embeds_folder(folder))
    with pytest.raises(BadWeights, match="other prompts"):
        PairStream(tmp_path).first(everything(tmp_path))


def test_workers_share_the_prompts_to_encode(tmp_path):
    write_manifest(tmp_path, {"settings": {"model": "shapes"}})
    write_pairs(tmp_path, np.random.default_rng(0))
    for worker in (1, 0):
        keep_embeds(tmp_path, worker=worker, num_workers=2)
        assert len([*embeds_folder(tmp_path).glob("*.safetensors")]) == NUM_SHARDS // (1 + worker)


def test_a_damaged_shard_is_not_trained_on(folder, tmp_path):
    write_manifest(tmp_path, {"settings": {"model": "shapes"}})
    write_pairs(tmp_path, np.random.default_rng(0))
    path = shard_paths(tmp_path, 2)[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadWeights, match="Shard 2"):
        list(PairStream(tmp_path).batches(everything(tmp_path)[slice(2 * SHARD_SIZE, None)], 4))
