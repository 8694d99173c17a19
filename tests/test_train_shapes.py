"""How the embedded model is trained: schedules, continued runs, test sets and what is reported while it trains."""

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from golden.checkers import Verdict
from golden.errors import InvalidInput, MissingWeights
from golden.models import Sampling
from golden.shapes import (
    CATEGORIES,
    TEST_SETS,
    check_scene,
    is_held_out,
    load_test_prompts,
    parse_caption,
    request_key,
    sample_captions,
    sample_scene,
)
from train.shapes import denoisers, draw_captions, evaluation, make_test_set, train_unet, training
from train.shapes.make_test_set import PLANS
from train.shapes.training import SCHEDULES, TrainingPlan, train


def rates(plan: TrainingPlan) -> list[float]:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=plan.learning_rate)
    schedule = SCHEDULES[plan.schedule](optimizer, plan)
    found = []
    for _ in range(plan.num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_a_cosine_schedule_ends_at_zero_and_a_constant_one_where_it_is_asked_to():
    cosine = rates(TrainingPlan(20, 2.0, num_warmup=4))
    constant = rates(TrainingPlan(20, 2.0, num_warmup=4, schedule="constant"))
    decayed = rates(TrainingPlan(20, 2.0, num_warmup=4, schedule="constant", decay_steps=8))
    assert cosine[4] == constant[4] == decayed[4] == 2.0
    assert cosine[-1] == pytest.approx(0, abs=1e-9)
    assert set(constant[4:]) == {2.0}
    assert set(decayed[4:13]) == {2.0}
    assert decayed[16] == pytest.approx(1.0)
    assert decayed[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"schedule": "linear"}, "cosine, constant"),
        ({"num_steps": 0}, "1 or more"),
        ({"schedule": "constant", "decay_steps": 11}, "from 0 to 10"),
    ],
)
def test_an_impossible_plan_is_refused(plan, words):
    with pytest.raises(InvalidInput, match=words):
        TrainingPlan(**{"num_steps": 10, "learning_rate": 1e-3} | plan)


class Blocks(nn.Module):
    """A transformer as far as the optimizers are concerned."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([nn.Linear(2, 3)])
        self.last = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.transformer_blocks[0](x))


def run_steps(num_steps: int, decay_steps: int = 0, evaluate=None, model_class=None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = model_class() if model_class else nn.Linear(2, 1)

    def compute_loss(step: int) -> torch.Tensor:
        return model(torch.randn(4, 2)).square().mean()

    muon = model_class is Blocks
    plan = TrainingPlan(num_steps, 0.1, 2, "constant", decay_steps, muon=muon, save_every=4, evaluate_every=3)
    return train("linear", model, compute_loss, plan, evaluate).state_dict()


@pytest.mark.parametrize("model_class", [None, Blocks], ids=["AdamW", "Muon"])
def test_a_run_continued_with_more_steps_is_the_run_that_had_them_from_the_start(monkeypatch, tmp_path, model_class):
    monkeypatch.setattr(training, "RUNS", tmp_path / "whole")
    expected = run_steps(12, decay_steps=4, model_class=model_class)
    monkeypatch.setattr(training, "RUNS", tmp_path / "parts")
    run_steps(4, model_class=model_class)
    run_steps(8, model_class=model_class)
    found = run_steps(12, decay_steps=4, model_class=model_class)
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = Blocks()
    muon, adamw = training.make_optimizers(model, TrainingPlan(10, 1e-3, muon=True))
    assert isinstance(muon, torch.optim.Muon)
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(model.transformer_blocks[0].weight)]
    assert len(adamw.param_groups[0]["params"]) == 3
    (alone,) = training.make_optimizers(model, TrainingPlan(10, 1e-3))
    assert isinstance(alone, torch.optim.AdamW)
    assert len(alone.param_groups[0]["params"]) == 4


def test_the_log_holds_evaluations_where_they_are_due(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "RUNS", tmp_path)
    run_steps(7, evaluate=lambda model, step: {"seen": step})
    rows = [json.loads(line) for line in (tmp_path / "linear" / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row.get("seen")) for row in rows] == [(3, 3), (4, None), (6, 6), (7, 7)]


def test_a_checkpoint_gives_its_average_and_a_missing_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "RUNS", tmp_path)
    expected = run_steps(4)
    found = training.load_averaged("linear", nn.Linear(2, 1)).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    with pytest.raises(InvalidInput, match="nothing"):
        training.load_averaged("nothing", nn.Linear(2, 1))


# --- test sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "num_prompts"), [(name, PLANS[name][0]) for name in TEST_SETS])
def test_a_test_set_is_held_out_different_and_in_its_proportions(name, num_prompts):
    rows = load_test_prompts(TEST_SETS[name])
    assert Counter(row["category"] for row in rows) == num_prompts
    assert len({row["prompt"] for row in rows}) == len(rows) == sum(num_prompts.values())
    for row in rows:
        request = parse_caption(row["prompt"])
        assert is_held_out(request)
        assert request.category == row["category"]


def test_a_test_set_asks_for_as_many_things_as_there_are():
    rows = load_test_prompts(TEST_SETS["shapes-hard-400"])
    assert len({request_key(parse_caption(row["prompt"])) for row in rows}) == 400


def test_the_frozen_sets_are_what_the_command_writes(tmp_path, capsys):
    make_test_set.main(["--folder", str(tmp_path)])
    for path in TEST_SETS.values():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert "553 prompts" in capsys.readouterr().out


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_captions_to_train_on_are_different_not_held_out_and_more_often_hard(tmp_path):
    draw_captions.main([str(tmp_path / "few.txt"), "--num-captions", "300"])
    draw_captions.main([str(tmp_path / "more.txt"), "--num-captions", "400"])
    few, more = ((tmp_path / name).read_text().splitlines() for name in ("few.txt", "more.txt"))
    assert more[:300] == few
    assert len(set(more)) == 400
    requests = [parse_caption(caption) for caption in more]
    assert not any(map(is_held_out, requests))
    counts = Counter(request.category for request in requests)
    assert set(counts) == set(CATEGORIES)
    assert counts["three_object"] > 2 * counts["single_object"]
    with pytest.raises(InvalidInput, match="--num-captions"):
        draw_captions.main([str(tmp_path / "none.txt"), "--num-captions", "0"])


def test_the_evaluation_asks_for_held_out_requests_of_every_category():
    captions = evaluation.sample_held_out(2)
    assert captions == evaluation.sample_held_out(2)
    requests = [parse_caption(caption) for caption in captions]
    assert [request.category for request in requests] == [name for name in CATEGORIES for _ in range(2)]
    assert all(is_held_out(request) for request in requests)


def test_shares_are_by_category_and_by_main_fault():
    captions = ["a star", "a heart", "a star above a heart", "two stars"]
    faults: list[tuple[str, ...]] = [(), ("shape",), ("unclear", "count"), ()]
    verdicts = [Verdict(not names, (), (), names) for names in faults]
    assert evaluation.summarise(captions, verdicts) == {
        "right": 0.5,
        "right_by_category": {"single_object": 0.5, "counting": 1.0, "position": 0.0},
        "wrong_by_fault": {"unclear": 0.25, "shape": 0.25},
    }


def test_a_pipeline_is_evaluated_by_its_images(tiny_shapes):
    figures = evaluation.count_right(tiny_shapes.pipeline, ["a red star", "two blue hearts"])
    assert figures["right"] == 0
    assert sum(figures["wrong_by_fault"].values()) == 1


@pytest.mark.parametrize(
    ("caption", "shown"),
    [
        ("a star", "a star"),
        ("a red star on a grey background", "a red star on a grey background"),
        ("three red stars", "two red stars"),
        ("a circle and a square", "a circle"),
        ("a red circle and a blue square", "a blue circle"),
        ("a red circle left of a blue square", "a blue circle right of a red square"),
        ("a circle above a square and left of a star", "a circle below a square and right of a star"),
        ("two circles and three stars", "one circle and two stars"),
    ],
)
def test_a_misread_caption_is_always_wrong_in_the_same_way(caption, shown):
    request, rng = parse_caption(caption), np.random.default_rng(0)
    assert train_unet.misread(request, 0.0, rng) == request
    wrong = train_unet.misread(request, 1.0, rng)
    assert (wrong.groups, wrong.relations) == (parse_caption(shown).groups, parse_caption(shown).relations)
    assert wrong.background == request.background


def test_what_a_misread_caption_asks_for_can_be_drawn():
    rng = np.random.default_rng(0)
    for caption in islice(sample_captions(rng), 200):
        request = train_unet.misread(parse_caption(caption), 0.5, rng)
        assert check_scene(request, sample_scene(request, rng)).correct


def test_a_unet_trains_on_what_was_cached_and_is_evaluated(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "RUNS", tmp_path)
    monkeypatch.setattr(denoisers, "CACHE", tmp_path / "latents")
    monkeypatch.setattr(evaluation, "SAMPLING", Sampling("ddim", num_inference_steps=2, guidance_scale=5.5))
    options = train_unet.UNetOptions(num_captions=4, num_steps=2, batch_size=2, num_evaluated=1)
    with pytest.raises(MissingWeights, match="--cache"):
        train_unet.train_unet(options)
    train_unet.make_cache(options)
    with pytest.raises(MissingWeights, match="--states"):
        train_unet.train_unet(options)
    train_unet.make_states()
    assert not train_unet.train_unet(options).training
    (row,) = [json.loads(line) for line in (tmp_path / "unet" / "log.jsonl").read_text().splitlines()]
    assert row["step"] == 2
    assert set(row["right_by_category"]) == set(CATEGORIES)
