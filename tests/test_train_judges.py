"""The embedded set of judges: how each is trained, and what the report says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from golden.errors import run_command
from golden.judges import ALL_JUDGES, JUDGES, embedded_path, load_judge, loading, save_judge
from golden.shapes import (
    GENEVAL_CATEGORIES,
    VOCABULARY,
    Scene,
    SceneObject,
    change_one_attribute,
    is_held_out,
    parse_caption,
    render,
    sample_caption,
    sample_scene,
)
from train.shapes import train_judges, training
from train.shapes.judge_images import JudgeImages, JudgeImageSettings, judge_image, make_images, read_images
from train.shapes.judges import losses, pairs, reading, recipes, report, towers
from train.shapes.judges.captions import DIMENSIONS, IMAGE_SIZE, centre_of, draw, draw_caption
from train.shapes.judges.configs import CONDITIONS, DIMENSION_WORDS, OVERALL, VISION
from train.shapes.judges.distortions import distort
from train.shapes.judges.recipes import RECIPES, JudgeRun, train_judge
from train.shapes.judges.report import score_images


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def few_rendered(monkeypatch):
    monkeypatch.setattr(report, "NUM_RENDERED", 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_shapes) -> Path:
    """A data set of a tiny random model: no image of it is right."""
    path = tmp_path_factory.mktemp("images")
    settings = JudgeImageSettings(seed=3, captions_per_shard=2)
    make_images(path, tiny_shapes, settings, {"train": 2, "held_out": 1})
    return path


def rendered(split: str, num_captions: int) -> JudgeImages:
    """Rendered images instead of generated ones: of each caption one right, one wrong, one of few steps."""
    generator, pixels, rows = rng(1), [], []
    for _ in range(num_captions):
        caption, request = draw_caption(generator, split)
        scene = sample_scene(request, generator)
        changed = change_one_attribute(scene, request, generator)
        for steps, shown in ((20, scene), (20, changed), (3, scene)):
            image = draw(shown)
            row = {"caption": caption, "num_inference_steps": steps, "guidance_scale": 5.5}
            pixels.append(image if steps == 20 else distort(image, "blur", 0.0, generator))
            rows.append(row | judge_image(caption, render(shown)))
    return JudgeImages(np.stack(pixels), pd.DataFrame(rows))


@pytest.fixture(scope="module")
def run() -> JudgeRun:
    return JudgeRun(rendered("train", 6), rendered("held_out", 6), num_steps=1, batch_size=2)


@pytest.fixture(scope="module")
def students(tmp_path_factory, run):
    """A function that trains a judge for one step, each once."""
    patch = pytest.MonkeyPatch()
    patch.setattr(training, "RUNS", tmp_path_factory.mktemp("runs"))
    yield lambda name: train_judge(name, run)
    patch.undo()


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", ["rendered_content", "misplaced", "generated_content", "ranked", "few_steps", "distorted"]
)
def test_pairs_are_of_training_captions(run, make):
    for seed in range(5):
        pair = getattr(pairs, make)(run.images, rng(seed), None)
        assert not is_held_out(parse_caption(pair.caption))
        assert pair.better.shape == pair.worse.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert not np.array_equal(pair.better, pair.worse)


def test_contrasts_hold_the_better_image_first(run):
    rows = run.images.rows
    for name in ("right", *DIMENSIONS):
        for good, bad in run.images.contrasts[name]:
            assert rows[name].iloc[good].eq(1).all()
            assert rows[name].iloc[bad].eq(0).all()
            assert rows["caption"].iloc[[*good, *bad]].nunique() == 1
    for good, bad in run.images.contrasts["quality"]:
        assert rows["num_inference_steps"].iloc[good].min() > rows["num_inference_steps"].iloc[bad].max()
        assert rows["right"].iloc[[*good, *bad]].nunique() == 1


def test_rendered_pairs_know_what_is_true_of_them():
    made = [pairs.rendered_content(rendered("train", 1), rng(seed), None) for seed in range(12)]
    captions, truth = pairs.truth_of(made)
    scenes = [scene for side in zip(*(pair.scenes for pair in made), strict=True) for scene in side]
    expected = [[judge_image(caption, render(scene))["right"] for scene in scenes] for caption in captions]
    assert truth.tolist() == expected
    with_other = [index for index, pair in enumerate(made) if pair.other]
    assert len(with_other) >= 6
    for row, index in enumerate(with_other, len(made)):
        assert truth[row, index] == 0
        assert truth[row, len(made) + index] == 1
    assert not any(is_held_out(parse_caption(caption)) for caption in captions)


def test_what_is_unknown_of_generated_images_stays_so(run):
    made = [pairs.generated_content(run.images, rng(seed), None) for seed in range(3)]
    captions, truth = pairs.truth_of(made)
    own = np.arange(3)
    assert (truth[own, own] == 1).all()
    assert (truth[own, 3 + own] == 0).all()
    assert (~truth.isnan()).sum() == 6 + sum(pair.other is not None for pair in made)
    assert len(captions) == 3 + sum(pair.other is not None for pair in made)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_conflicting_images_are_wrong_in_two_ways(dimension):
    for seed in range(5):
        pair = pairs.conflicting(None, rng(seed), dimension, "held_out")
        assert is_held_out(parse_caption(pair.caption))
        better, worse = (
            judge_image(pair.caption, Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC))
            for pixels in (pair.better, pair.worse)
        )
        assert better["right"] == worse["right"] == 0
        assert worse[dimension] == 0


def test_choices_between_readings_are_of_one_caption_or_one_image(run):
    made = [pairs.rendered_content(run.images, rng(seed), None) for seed in range(4)]
    made += [pairs.generated_content(run.images, rng(seed), None) for seed in range(4)]
    readings = pairs.readings_of(made)
    captions, truth = pairs.truth_of(made)
    rows = [np.array(captions) == caption for caption in readings.captions]  # one caption may be asked for twice
    true = [np.nanmax(truth.numpy()[row, image]) for row, image in zip(rows, readings.images, strict=True)]
    for better, worse in readings.choices.tolist():
        assert (true[better], true[worse]) == (1, 0)
        same = readings.captions[better] == readings.captions[worse]
        assert same != (readings.images[better] == readings.images[worse])


def test_only_words_that_tell_of_the_image_are_hidden(students):
    judge = students("ImageReward")
    words = ["a", "drawing", "of", "two", "red", "stars", "on", "a", "black", "background"]
    ids = judge.tokenize([" ".join(words)] * 200).ids
    hidden = reading.hide_words(judge, ids, rng())[:, 1 : 1 + len(words)].float().mean(0)
    found = {word for word, share in zip(words, hidden, strict=True) if 0.2 < share < 0.5}
    assert found == {"two", "red", "stars", "black", "background"}


def test_words_that_are_wrong_of_the_image_are_answered_so(students, run):
    judge = students("ImageReward")
    black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    pair = pairs.ImagePair("a red star", black, black, "a blue star")
    readings = pairs.readings_of([pair, replace(pair, other=None), replace(pair, other="two red stars")])
    red, star, blue = judge.tokenize(["red star blue"]).ids[0, 1:4].tolist()
    wrong, nothing = reading.WRONG_ID, [-1, -1]
    answers = reading.answers_of(judge, readings)[:, 2:4].tolist()
    assert answers == [[red, star], nothing, [wrong, star], nothing, nothing, [red, star], nothing, [red, wrong]]
    assert blue not in (red, star)


def test_images_without_any_contrast_still_give_pairs(folder):
    images = read_images(folder, "train")
    assert not images.contrasts["right"]
    made = [make(images, rng(), None) for make in (pairs.generated_content, pairs.few_steps)]
    made.append(pairs.ranked(images, rng(), None))
    assert not any(is_held_out(parse_caption(one.caption)) for one in made)


def test_conditions_are_words_of_the_captions_and_fit(students):
    judge = students("MPS")
    for words in CONDITIONS.values():
        tokens = judge.tokenize([words])
        assert int(tokens.mask.sum()) == len(words.split()) + 2
    assert {word for words in DIMENSION_WORDS.values() for word in words} <= set(VOCABULARY)


def test_a_condition_is_not_answered_with_what_another_read(students, run):
    judge = students("MPS")
    judge.config["threshold"] = 0.9  # an untrained judge lets almost all words through
    images = run.held_out
    scores = [score_images(judge, images)]
    other = report.with_condition(judge, CONDITIONS["position"])
    ids = judge.tokenize(["a red star above a blue heart"]).ids
    kept = [one.encode_prompts(one.tokenize(["a red star above a blue heart"]))[2] for one in (judge, other)]
    assert ids.shape == kept[0].shape
    assert not torch.equal(*kept)
    scores.append(score_images(other, images))
    assert not np.array_equal(*scores)
    assert judge.config["condition"] == CONDITIONS[OVERALL]


# --- positions --------------------------------------------------------------------------------------------------------


def test_sides_are_as_seen_from_the_middle_of_all_objects():
    objects = (SceneObject("star", "red", 0.2, 0.3, 0.1), SceneObject("heart", "blue", 0.5, 0.3, 0.1))
    sides = towers.sides_of(Scene("white", objects))
    known = {towers.KINDS[index]: tuple(row) for index, row in enumerate(sides.tolist()) if any(row)}
    assert known == {"star": (1, 2), "red": (1, 2), "heart": (3, 2), "blue": (3, 2)}


@pytest.mark.parametrize(
    ("shares", "least"),
    [(reading.SHARES, 0.3), (losses.CONTENT, 0.25), (losses.mps_shares(OVERALL)[0], 0.3)],
)
def test_position_changes_have_a_fixed_share_of_every_batch(shares, least):
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[pairs.misplaced] >= least


def test_a_relation_that_is_wrong_is_answered_so_whatever_its_number_of_words(students):
    judge = students("ImageReward")
    black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    caption, other = "a red star left of a blue heart", "a red star above a blue heart"
    readings = pairs.readings_of([pairs.ImagePair(caption, black, black, other)])
    answers = reading.answers_of(judge, readings)[2]
    above = judge.tokenize(["above"]).ids[0, 1]
    ids = judge.tokenize([other]).ids[0]
    assert answers[ids == above].tolist() == [reading.WRONG_ID]
    told = (answers >= 0) & (ids != above)
    assert torch.equal(answers[told], ids[told])
    assert told.sum() == 4


def test_every_shape_word_points_at_its_objects_in_rendered_images(students):
    judge = students("ImageReward")
    made = [pairs.misplaced(rendered("train", 1), rng(seed), None) for seed in range(6)]
    readings = pairs.readings_of(made)
    places = reading.places_of(judge, readings)
    for row, (caption, scene) in enumerate(zip(readings.captions, readings.scenes, strict=True)):
        groups = parse_caption(caption).groups
        found = places[row][places[row, :, 0] >= 0]
        centres = [centre_of(scene, group) for group in groups]
        assert found.tolist() == [[int(8 * y), int(8 * x)] for x, y in centres][: len(found)]
        assert len(found) >= len(groups) - 1  # a caption longer than the context is cut


def test_vision_towers_learn_where_things_are():
    scenes = towers.draw_scenes(rng(), 16)
    torch.manual_seed(0)
    reader = towers.VisionReader(CLIPVisionModel(CLIPVisionConfig(**VISION)))
    pixels = pairs.to_pixels([draw(scene) for scene in scenes])
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3)
    found = []
    for _ in range(12):
        loss = reader.loss(pixels, scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.9 * found[0]


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_JUDGES)
def test_every_judge_trains_saves_and_loads(students, run, name, tmp_path):
    judge = students(name)
    assert not judge.training
    scores = score_images(judge, run.held_out)
    assert scores.shape == (len(run.held_out),)
    path = save_judge(judge, tmp_path / f"{name}.safetensors", dtype=torch.float16)
    assert path.stat().st_size < 8e6
    loaded = score_images(load_judge(name, path), run.held_out)
    assert np.abs(loaded - scores).max() < 0.05 * max(1.0, np.abs(scores).max())


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_reaches_every_part_that_scores(students, run, name):
    recipe = RECIPES[name]
    student = recipe.start(run)
    loss = recipe.compute_loss(student, run.images, rng(2), 3)
    loss.backward()
    assert loss.isfinite()
    still = [key for key, weight in student.judge.named_parameters() if weight.grad is None]
    unused = {
        "HPSv2": {"model.logit_scale"},
        "MPS": {"model.vision_model.post_layernorm.weight", "model.vision_model.post_layernorm.bias"},
    }
    assert set(still) == unused.get(name, set())


def test_hpsv2_starts_from_the_same_towers_as_clip_score(students, run):
    clip, judge = students("CLIPScore"), RECIPES["HPSv2"].start(run).judge.eval()
    image = Image.fromarray(run.held_out.pixels[0])
    prompts = ["a red star", "two circles on a grey background"]
    with torch.no_grad():
        embeds = clip.encode_images(clip.preprocess([image, image]))
        cosines = (embeds * clip.encode_prompts(clip.tokenize(prompts))[0]).sum(-1)
    torch.testing.assert_close(judge.score([image, image], prompts), 100 * cosines, atol=1e-3, rtol=1e-4)


def test_image_reward_is_standardised_over_its_training_images(students, run):
    rewards = score_images(students("ImageReward"), run.images)
    assert abs(rewards.mean()) < 1e-3
    assert abs(rewards.std() - 1) < 1e-3


def test_a_run_that_was_killed_ends_as_one_that_was_not(run, monkeypatch, tmp_path):
    three = JudgeRun(run.images, run.held_out, num_steps=3, batch_size=2)
    monkeypatch.setattr(recipes, "SAVE_EVERY", 1)
    monkeypatch.setattr(training, "RUNS", tmp_path / "unbroken")
    expected = train_judge("AES", three).state_dict()
    monkeypatch.setattr(training, "RUNS", tmp_path / "broken")
    loss, calls = losses.aesthetic_loss, []

    def killed(student, images, generator, num_images):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(student, images, generator, num_images)

    with monkeypatch.context() as patch:
        patch.setitem(RECIPES, "AES", replace(RECIPES["AES"], compute_loss=killed))
        with pytest.raises(KeyboardInterrupt):
            train_judge("AES", three)
    found = train_judge("AES", three).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


# --- the report -------------------------------------------------------------------------------------------------------


class Oracle:
    """A judge that asks the checker."""

    def __init__(self, sign: int = 1) -> None:
        self.sign = sign

    def score(self, images, prompts):
        scores = [self.sign * judge_image(p, i)["score"] for p, i in zip(prompts, images, strict=True)]
        return torch.tensor(scores)


def test_the_report_knows_a_good_judge_from_a_bad_one():
    images = rendered("held_out", 4)
    judges = {"Oracle": Oracle(), "Liar": Oracle(-1)}
    text, spread = report.report(judges, images)
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith(("| Oracle", "| Liar"))]
    assert "100.0 [100.0, 100.0]" in rows[0][1]
    assert "0.0 [0.0, 0.0]" in rows[1][1]
    assert [cell.strip() for cell in rows[3]][1:] == ["-1.00", "+1.00"]
    assert spread["Oracle"]["mean"] == -spread["Liar"]["mean"]


def test_the_report_is_of_all_six(students, run):
    text, spread = report.report({name: students(name) for name in ALL_JUDGES}, run.held_out)
    assert text.count("| MPS |") == 4 + 2  # a row in four tables, a column in two
    for heading in ("right / wrong", "one attribute changed", "clean / distorted", "its own condition", "Spearman"):
        assert heading in text
    assert set(spread) == set(ALL_JUDGES)
    assert all(set(figures) == {"mean", "std"} for figures in spread.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--report"),
        (["FID"], "invalid choice"),
        (["AES", "--num-steps", "0"], "1 or more"),
        (["AES", "--longer", "nan"], "--longer"),
        (["AES", "--images", "/nowhere"], "no images"),
    ],
)
def test_the_command_refuses_in_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: train_judges.main(arguments))
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert words in err
    assert err.count("\n") == 1


def test_the_command_trains_and_reports(monkeypatch, capsys, folder, tmp_path):
    monkeypatch.setattr(training, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(loading, "ASSETS", tmp_path)
    arguments = ["all", "--report", "--images", str(folder), "--num-steps", "1", "--batch-size", "2"]
    train_judges.main(arguments)
    assert "Spearman" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "judges").iterdir()}
    assert {embedded_path(cls).name for cls in (JUDGES[name] for name in ALL_JUDGES)} | {"spread.json"} <= files


# --- what is in the repository ----------------------------------------------------------------------------------------


def judge_pairs(name: str, category: str | None, dimension: str | None) -> float:
    """The share of 40 rendered scenes that score above the same with one attribute changed (AES: blurred)."""
    generator, better, worse, captions = rng(7), [], [], []
    while len(captions) < 40:
        drawn = category or str(generator.choice([name for name in GENEVAL_CATEGORIES if name != "position"]))
        caption = sample_caption(generator, drawn, held_out=True)
        request = parse_caption(caption)
        scene = sample_scene(request, generator)
        if name == "AES":
            bad = distort(draw(scene), "blur", 0.7, generator)
        else:
            bad = draw(change_one_attribute(scene, request, generator, dimension))
        better.append(Image.fromarray(draw(scene)))
        worse.append(Image.fromarray(bad))
        captions.append(caption)
    judge = load_judge(name)
    return float((judge.score(better, captions) > judge.score(worse, captions)).float().mean())


@pytest.mark.parametrize("name", ALL_JUDGES)
def test_the_embedded_judges_tell_good_images_from_bad(name):
    assert embedded_path(JUDGES[name]).stat().st_size < 10e6
    assert judge_pairs(name, None, None) >= 0.8


@pytest.mark.parametrize("name", [name for name in ALL_JUDGES if name != "AES"])
def test_the_embedded_judges_read_positions(name):
    assert judge_pairs(name, "position", "position") >= 0.8
