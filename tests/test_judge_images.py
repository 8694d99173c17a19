"""The images that the embedded judges learn from: shards, splits, changes and distortions."""

from pathlib import Path

import numpy as np
import pytest

from golden.errors import InvalidInput
from golden.shapes import (
    TEST_SETS,
    change_one_attribute,
    check_scene,
    is_held_out,
    load_test_prompts,
    parse_caption,
    render,
    sample_scene,
)
from train.shapes import judge_images
from train.shapes.judge_images import (
    JudgeImageSettings,
    dimension_of,
    judge_image,
    make_images,
    make_shard,
    read_images,
    shard_path,
)
from train.shapes.judges.captions import (
    DIMENSIONS,
    IMAGE_SIZE,
    SPLITS,
    asks,
    describe,
    draw,
    draw_caption,
    mirror,
    shows,
)
from train.shapes.judges.distortions import DISTORTIONS, distort
from train.shapes.judges.pairs import misplace

SETTINGS = JudgeImageSettings(seed=3, captions_per_shard=2)
NUM_SHARDS = {"train": 2, "held_out": 1}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_shapes) -> Path:
    """A data set of a tiny random model: no image of it is right."""
    path = tmp_path_factory.mktemp("images")
    make_images(path, tiny_shapes, SETTINGS, NUM_SHARDS)
    return path


def test_a_shard_is_a_function_of_seed_split_and_index(tiny_shapes, folder):
    pixels, rows = make_shard(tiny_shapes, SETTINGS, "train", 1)
    again, same_rows = judge_images.read_shard(shard_path(folder, "train", 1))
    assert np.array_equal(pixels, again)
    assert rows == same_rows
    assert pixels.shape == (2 * len(judge_images.VARIANTS), IMAGE_SIZE, IMAGE_SIZE, 3)
    others = [judge_images.read_shard(shard_path(folder, *name))[1] for name in (("train", 0), ("held_out", 0))]
    assert all(other != rows for other in others)


def test_a_data_set_that_was_killed_or_damaged_is_completed(tiny_shapes, folder, monkeypatch):
    paths = [shard_path(folder, split, index) for split, count in NUM_SHARDS.items() for index in range(count)]
    before = [path.read_bytes() for path in paths]
    untouched = paths[0].stat().st_mtime_ns
    paths[1].write_bytes(before[1][:-5] + b"12345")
    paths[2].unlink()

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judge_images, "generate", killed)
        with pytest.raises(KeyboardInterrupt):
            make_images(folder, tiny_shapes, SETTINGS, NUM_SHARDS)
    assert not paths[2].exists()
    make_images(folder, tiny_shapes, SETTINGS, NUM_SHARDS)
    assert [path.read_bytes() for path in paths] == before
    assert paths[0].stat().st_mtime_ns == untouched
    with pytest.raises(InvalidInput, match="seed"):
        make_images(folder, tiny_shapes, JudgeImageSettings(seed=4, captions_per_shard=2), NUM_SHARDS)


def test_images_are_read_with_their_verdicts(folder):
    images = read_images(folder, "train")
    assert len(images) == len(images.pixels) == 2 * 2 * len(judge_images.VARIANTS)
    assert images.standard().sum() == 2 * 2 * 2
    assert set(DIMENSIONS) <= set(images.rows)
    with pytest.raises(InvalidInput, match="judge_images"):
        read_images(folder / "nowhere", "train")


def test_no_request_is_in_both_splits_and_none_to_train_on_in_a_test_set(folder):
    prompts = {row["prompt"] for path in TEST_SETS.values() for row in load_test_prompts(path)}
    for split in SPLITS:
        captions = set(read_images(folder, split).rows["caption"])
        captions |= {draw_caption(rng(seed), split)[0] for seed in range(50)}
        assert {is_held_out(parse_caption(caption)) for caption in captions} == {split == "held_out"}
        assert split == "held_out" or not captions & prompts
    assert is_held_out(parse_caption("a red star")) == is_held_out(parse_caption("a drawing of a red star"))


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_change_in_one_dimension_is_one_to_the_checker(dimension):
    for seed in range(5):
        generator = rng(seed)
        caption, request = draw_caption(generator, dimension=dimension)
        scene = sample_scene(request, generator)
        changed = change_one_attribute(scene, request, generator, dimension)
        assert judge_image(caption, render(scene))[dimension] == 1
        assert judge_image(caption, render(changed))[dimension] == 0


@pytest.mark.parametrize("change", [mirror, misplace])
def test_misplaced_scenes_show_the_same_objects_and_a_false_relation(change):
    for seed in range(20):
        generator = rng(seed)
        _, request = draw_caption(generator, dimension="position")
        scene = sample_scene(request, generator)
        changed = change(scene, request, generator)
        kinds = [sorted((item.shape, item.colour) for item in one.objects) for one in (scene, changed)]
        assert kinds[0] == kinds[1]
        assert scene.background == changed.background
        assert check_scene(request, scene).correct
        assert check_scene(request, changed).faults == ("position",)


@pytest.mark.parametrize("split", SPLITS)
def test_a_changed_scene_is_described_truly_and_in_its_split(split):
    num_described = 0
    for seed in range(80):
        generator = rng(seed)
        caption, request = draw_caption(generator, split)
        scene = sample_scene(request, generator)
        changed = change_one_attribute(scene, request, generator)
        if found := describe(changed, caption, split):
            num_described += 1
            other = parse_caption(found)
            assert check_scene(other, changed).correct
            assert not check_scene(other, scene).correct
            assert is_held_out(other) == (split == "held_out")
    assert num_described > (20 if split == "train" else 2)


def test_a_quick_look_at_a_scene_agrees_with_the_checker():
    generator = rng()
    requests = [draw_caption(generator)[1] for _ in range(30)]
    scenes = [sample_scene(request, generator) for request in requests]
    for request in requests:
        for scene in scenes:
            assert shows(scene, request) == check_scene(request, scene).correct


def test_attributes_belong_to_dimensions():
    names = ("count", "star shape", "star colour", "left of", "background")
    assert [dimension_of(name) for name in names] == ["count", "shape", "colour", "position", "background"]
    assert not asks(parse_caption("a star"), "colour")
    assert asks(parse_caption("a star above a heart"), "position")


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_stronger_distortions_change_more(kind):
    pixels = draw(sample_scene(parse_caption("a red star and a blue heart"), rng()))
    changes = []
    for strength in (0.0, 0.5, 1.0):
        worse = distort(pixels, kind, strength, rng())
        assert worse.shape == pixels.shape
        assert worse.dtype == np.uint8
        changes.append(np.abs(worse.astype(float) - pixels).mean())
    assert 0 < changes[0] < changes[1] < changes[2]
