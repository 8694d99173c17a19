"""A comparison: validation that lets nothing odd through, events in order, a stop that stops, and fairness."""

import itertools
import math
import threading
import time
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

import golden.compare
from golden.arms import ARMS
from golden.compare import Checked, Comparison, Progress, Rendered, Scored, compare, run_comparison
from golden.errors import InvalidInput, MissingWeights
from golden.families import FAMILIES
from golden.judges import ALL_JUDGES
from golden.noise import source_noise
from golden.request import CompareRequest
from tests.conftest import EVERY_ARM, SIZE, break_judge

SHORT = CompareRequest(prompt="a red star", seed=3, num_inference_steps=3)


def test_a_comparison_validates_before_it_starts(tiny_shapes):
    with pytest.raises(InvalidInput, match="'dog'"):
        next(compare(replace(SHORT, prompt="a red dog"), tiny_shapes))
    assert not comparison_threads()
    assert not tiny_shapes.lock.locked()


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_come_in_order(tiny_shapes):
    events = list(compare(SHORT, tiny_shapes))
    assert [(event.step, event.num_steps) for event in events[:3]] == [(1, 3), (2, 3), (3, 3)]
    assert all(isinstance(event, Progress) for event in events[:3])
    assert isinstance(events[3], Rendered)
    assert isinstance(events[4], Comparison)
    assert len(events) == 5
    comparison = events[4]
    assert comparison.request == SHORT
    assert comparison.images is events[3].images
    assert list(comparison.images) == list(comparison.noises) == list(comparison.verdicts) == ["standard", "npnet"]
    assert {image.size for image in comparison.images.values()} == {(8 * SIZE, 8 * SIZE)}
    assert torch.equal(comparison.noises["standard"], source_noise([3], (4, SIZE, SIZE))[0])
    assert 0 < comparison.npnet_seconds < comparison.total_seconds
    assert 0 < comparison.overhead < 10
    assert all(verdict.reasons for verdict in comparison.verdicts.values())


def test_npnets_overhead_does_not_depend_on_what_other_noises_take(tiny_shapes, monkeypatch):
    def take_long(source, conditions):
        time.sleep(1.5)
        return source

    monkeypatch.setitem(ARMS, "repaint", take_long)
    comparison = run_comparison(replace(SHORT, arms=("standard", "npnet", "repaint")), tiny_shapes)
    assert comparison.total_seconds > comparison.noise_seconds > 1.5
    of_images = comparison.total_seconds - comparison.noise_seconds
    assert comparison.overhead == pytest.approx(comparison.npnet_seconds / (of_images / 3))


def test_previews_show_every_arm(tiny_shapes, monkeypatch):
    monkeypatch.setattr("golden.compare.PREVIEWS_PER_SECOND", 10**9)
    monkeypatch.setattr("golden.compare.PREVIEW_SHARE", 1)
    progress = [event for event in compare(SHORT, tiny_shapes) if isinstance(event, Progress)]
    assert [len(event.previews) for event in progress] == [2, 2, 0]  # the last step is followed by the image itself
    assert progress[0].previews[0].size == (8 * SIZE, 8 * SIZE)


def test_previews_take_a_tenth_of_the_time_at_most(tiny_shapes, monkeypatch):
    """After a preview that takes a tick there are nine ticks without one."""
    clock = itertools.count()  # a tick each time that somebody looks: twice for a preview, else once a step
    monkeypatch.setattr("golden.compare.PREVIEWS_PER_SECOND", 10**9)
    monkeypatch.setattr("golden.compare.time.perf_counter", lambda: next(clock))
    events = compare(replace(SHORT, num_inference_steps=40), tiny_shapes)
    shown = [event.step for event in events if isinstance(event, Progress) and event.previews]
    assert len(shown) >= 3
    assert min(b - a for a, b in itertools.pairwise(shown)) >= 9


@pytest.mark.parametrize("sampler", FAMILIES["sdxl"].samplers)
def test_every_sampler_runs(tiny_shapes, sampler):
    events = list(compare(replace(SHORT, sampler=sampler), tiny_shapes))
    steps = [(event.step, event.num_steps) for event in events[:-2]]
    assert steps == [(step, len(steps)) for step in range(1, len(steps) + 1)]


@pytest.mark.parametrize("sampler", FAMILIES["hunyuan-dit"].samplers)
def test_every_sampler_runs_on_hunyuan(tiny_hunyuan, sampler):
    comparison = run_comparison(replace(SHORT, sampler=sampler), tiny_hunyuan)
    assert comparison.images["standard"].tobytes() != comparison.images["npnet"].tobytes()


@pytest.mark.parametrize("sampler", FAMILIES["sdxl"].samplers)
def test_every_sampler_runs_on_a_controlnet(tiny_steered, edges, sampler):
    comparison = run_comparison(replace(SHORT, sampler=sampler, control=edges), tiny_steered)
    assert comparison.images["standard"].tobytes() != comparison.images["npnet"].tobytes()


def test_a_control_image_reaches_every_arm(tiny_steered, edges):
    """At any size of the images; the arms that run the model beforehand pass it the control image, too."""
    request = replace(SHORT, arms=EVERY_ARM, control=edges, height=64, width=96)
    first = run_comparison(request, tiny_steered)
    second = run_comparison(replace(request, control=edges.rotate(180)), tiny_steered)
    assert all(first.images[arm].tobytes() != second.images[arm].tobytes() for arm in EVERY_ARM)
    changed = {arm for arm in EVERY_ARM if not torch.equal(first.noises[arm], second.noises[arm])}
    assert changed - {"select_4"} == {"inversion", "repaint", "ascent"}


def test_a_control_image_is_for_controlnets_and_they_need_one(tiny_steered, tiny_model, edges):
    with pytest.raises(InvalidInput, match="needs a control image beside the prompt"):
        run_comparison(SHORT, tiny_steered)
    with pytest.raises(InvalidInput, match="A control image is for a ControlNet"):
        run_comparison(replace(SHORT, control=edges), tiny_model)


def test_a_controlnet_is_stopped_within_one_step(tiny_steered, edges):
    events = compare(replace(SHORT, num_inference_steps=50, control=edges), tiny_steered)
    assert next(events).num_steps >= 50
    events.close()
    assert not tiny_steered.lock.locked()


def test_a_sampler_without_a_schedule_for_the_model_says_so(tiny_hunyuan):
    with pytest.raises(InvalidInput, match="cannot use the sampler"):
        run_comparison(replace(SHORT, sampler="dpm_ays"), tiny_hunyuan)
    assert not tiny_hunyuan.lock.locked()


def test_every_arm_at_once(tiny_shapes):
    comparison = run_comparison(replace(SHORT, arms=EVERY_ARM), tiny_shapes)
    assert tuple(comparison.images) == EVERY_ARM
    assert comparison.images["standard"].tobytes() != comparison.images["npnet"].tobytes()


def test_only_models_with_a_checker_are_checked(tiny_model):
    assert run_comparison(replace(SHORT, prompt="a dog"), tiny_model).verdicts == {}


@pytest.mark.parametrize("sides", [{"height": 128, "width": 72}, {"width": 128}, {"height": 64}], ids=str)
def test_images_of_another_size(tiny_shapes, sides):
    """NPNet sees them through windows; the checker, which knows the model's own size, only that."""
    wanted = {"width": 8 * SIZE, "height": 8 * SIZE} | sides
    comparison = run_comparison(replace(SHORT, **sides), tiny_shapes)
    assert {image.size for image in comparison.images.values()} == {(wanted["width"], wanted["height"])}
    assert comparison.noises["npnet"].shape == (4, wanted["height"] // 8, wanted["width"] // 8)
    assert not torch.equal(comparison.noises["npnet"], comparison.noises["standard"])
    assert bool(comparison.verdicts) == (set(wanted.values()) == {8 * SIZE})


@pytest.mark.parametrize("height", [0, -8, 100, 136, 2**40, 64.5, True, "64", math.nan], ids=str)
def test_a_size_that_is_refused(tiny_shapes, height):
    for sides in ({"height": height}, {"width": height}):
        with pytest.raises(InvalidInput, match=r"^The (height|width) must be") as caught:
            next(compare(replace(SHORT, **sides), tiny_shapes))
        assert "\n" not in str(caught.value)
    assert not comparison_threads()


def test_a_size_too_small_for_npnet_is_refused(tiny_shapes):
    with pytest.raises(InvalidInput, match="takes half of that and more"):
        run_comparison(replace(SHORT, height=24), tiny_shapes)
    alone = replace(SHORT, height=24, arms=("standard",))
    assert run_comparison(alone, tiny_shapes).images["standard"].height == 24


def test_a_model_without_npnet_says_so(tiny_shapes):
    bare = replace(tiny_shapes, npnet=None)
    with pytest.raises(MissingWeights, match="no NPNet"):
        run_comparison(SHORT, bare)
    assert run_comparison(replace(SHORT, arms=("standard", "inversion")), bare).npnet_seconds == 0


# --- stop -------------------------------------------------------------------------------------------------------------


def comparison_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "compare"]


def test_closing_the_generator_stops_within_one_step(tiny_shapes, replace_unet):
    """The network waits in its third step until the generator is being closed: so nothing depends on speed."""
    go_on = threading.Event()

    def epsilon(x, t, level):
        if len(asked) == 3:
            go_on.wait(30)
        return 0.5 * x

    asked = replace_unet(epsilon)
    scheduler = tiny_shapes.pipeline.scheduler
    events = compare(replace(SHORT, num_inference_steps=50), tiny_shapes)
    assert next(events).step == 1
    while len(asked) < 3:
        time.sleep(0.01)
    threading.Timer(0.2, go_on.set).start()
    events.close()  # while the third step is under way
    assert len(asked) == 3
    assert not comparison_threads()
    assert not tiny_shapes.lock.locked()
    assert tiny_shapes.pipeline.scheduler is scheduler


def test_a_run_that_waits_for_its_turn_says_so_and_can_be_stopped(tiny_shapes):
    with tiny_shapes.lock:
        events = compare(SHORT, tiny_shapes)
        assert next(events) == Progress(0, 3)
        events.close()
        assert not comparison_threads()
        waiting = compare(SHORT, tiny_shapes)
        assert next(waiting) == Progress(0, 3)
    assert isinstance(list(waiting)[-1], Comparison)


def test_a_failure_reaches_the_caller_and_the_next_run_works(tiny_shapes, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("golden.compare.sample_images", lambda *_, **__: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            run_comparison(SHORT, tiny_shapes)
    assert not tiny_shapes.lock.locked()
    assert run_comparison(SHORT, tiny_shapes)


# --- judges -----------------------------------------------------------------------------------------------------------


def test_scores_follow_the_images_judge_by_judge(tiny_shapes, tiny_judges):
    events = list(compare(SHORT, tiny_shapes, tiny_judges))
    kinds = [Progress] * 3 + [Rendered, Checked] + [Scored] * 6 + [Comparison]
    assert [type(event) for event in events] == kinds
    checked, scored, comparison = events[4].comparison, events[5:11], events[11]
    assert [event.judge for event in scored] == list(ALL_JUDGES)
    assert [len(event.comparison.scores) for event in scored] == [1, 2, 3, 4, 5, 6]
    assert checked.scores == {}
    assert checked.verdicts == comparison.verdicts
    assert all(event.comparison.images is events[3].images for event in (*scored, events[4]))
    assert scored[-1].comparison == comparison
    assert list(comparison.scores) == list(ALL_JUDGES)
    assert all(list(by_arm) == ["standard", "npnet"] for by_arm in comparison.scores.values())
    figures = [score for by_arm in comparison.scores.values() for score in by_arm.values()]
    assert len(figures) == 12
    assert all(math.isfinite(score) for score in figures)
    assert comparison.unavailable == {}
    assert comparison.scoring_seconds > 0


def test_scores_are_the_judges_own(tiny_shapes, tiny_judges):
    comparison = run_comparison(SHORT, tiny_shapes, tiny_judges)
    for name, scores in tiny_judges.score(list(comparison.images.values()), [SHORT.prompt] * 2).items():
        assert list(comparison.scores[name].values()) == scores.tolist()


def test_without_judges_nothing_is_scored(tiny_shapes):
    comparison = run_comparison(SHORT, tiny_shapes)
    assert (comparison.scores, comparison.unavailable, comparison.scoring_seconds) == ({}, {}, 0.0)


@pytest.mark.parametrize("sentence", ["There is no AES here.", ""])
def test_a_judge_that_fails_costs_only_its_own_scores(tiny_shapes, tiny_judges, sentence):
    break_judge(tiny_judges, "AES", sentence)
    comparison = run_comparison(SHORT, tiny_shapes, tiny_judges)
    assert list(comparison.scores) == [name for name in ALL_JUDGES if name != "AES"]
    assert list(comparison.unavailable) == ["AES"]
    message = comparison.unavailable["AES"]
    assert message == sentence if sentence else message.startswith("AES failed with ValueError")
    assert "\n" not in message
    assert comparison.verdicts


def test_scores_do_not_depend_on_the_order_of_arms(tiny_shapes, tiny_judges):
    first = run_comparison(SHORT, tiny_shapes, tiny_judges)
    second = run_comparison(replace(SHORT, arms=SHORT.arms[::-1]), tiny_shapes, tiny_judges)
    for name, by_arm in first.scores.items():
        equal = {arm: second.images[arm].tobytes() == first.images[arm].tobytes() for arm in by_arm}
        for arm in by_arm:  # an image may differ in a rounded pixel, and its score with it
            assert second.scores[name][arm] == pytest.approx(by_arm[arm], rel=1e-5 if equal[arm] else 1e-2)


def test_closing_the_generator_stops_within_one_judge(tiny_shapes, tiny_judges):
    """The second judge waits until the generator is being closed; meanwhile the model is free for another run."""
    go_on, asked = threading.Event(), []

    def wrap(name, loader):
        def load():
            asked.append(name)
            if len(asked) == 2:
                go_on.wait(60)
            return loader()

        return load

    tiny_judges._loaders = {name: wrap(name, loader) for name, loader in tiny_judges._loaders.items()}
    events = compare(SHORT, tiny_shapes, tiny_judges)
    while not isinstance(next(events), Scored):
        pass
    assert not tiny_shapes.lock.locked()
    assert run_comparison(SHORT, tiny_shapes)
    threading.Timer(0.2, go_on.set).start()
    events.close()
    assert asked == list(ALL_JUDGES)[:2]
    assert not comparison_threads()
    assert run_comparison(SHORT, tiny_shapes, tiny_judges).scores.keys() == set(ALL_JUDGES)


# --- little memory ----------------------------------------------------------------------------------------------------


def test_on_a_small_card_the_same_images_without_previews(tiny_model, spared_model, monkeypatch):
    monkeypatch.setattr("golden.compare.PREVIEWS_PER_SECOND", 10**9)
    monkeypatch.setattr("golden.compare.PREVIEW_SHARE", 1)
    expected = run_comparison(SHORT, tiny_model)
    *progress, rendered, comparison = compare(SHORT, spared_model)
    assert progress == [Progress(step, 6) for step in range(1, 7)]
    assert comparison.images is rendered.images
    for arm in SHORT.arms:
        assert np.abs(pixels(comparison, arm) - pixels(expected, arm)).max() <= 1


def test_on_a_small_card_the_judges_have_the_device_to_themselves(spared_model, tiny_judges):
    taken = []

    def listen(loader):
        def load():
            taken.append(spared_model.lock.locked())
            return loader()

        return load

    tiny_judges._loaders = {name: listen(loader) for name, loader in tiny_judges._loaders.items()}
    assert run_comparison(SHORT, spared_model, tiny_judges).scores.keys() == set(ALL_JUDGES)
    assert taken == [True] * len(ALL_JUDGES)
    assert not spared_model.lock.locked()


def test_on_a_small_card_stop_stops_too(spared_model):
    scheduler = spared_model.pipeline.scheduler
    events = compare(replace(SHORT, num_inference_steps=50), spared_model)
    assert next(events).num_steps == 100
    events.close()
    assert not comparison_threads()
    assert not spared_model.lock.locked()
    assert spared_model.pipeline.scheduler is scheduler
    assert run_comparison(SHORT, spared_model)


# --- fairness ---------------------------------------------------------------------------------------------------------


def pixels(comparison: Comparison, arm: str) -> np.ndarray:
    return np.asarray(comparison.images[arm], int)


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "lcm"])
def test_equal_noise_gives_equal_images(tiny_shapes, sampler):
    """At strength 0 the arms differ in their names alone."""
    arms = ("standard", "npnet", "inversion", "random")
    comparison = run_comparison(replace(SHORT, sampler=sampler, strength=0.0, arms=arms), tiny_shapes)
    for arm in arms[1:]:
        assert torch.equal(comparison.noises[arm], comparison.noises["standard"])
        assert np.abs(pixels(comparison, arm) - pixels(comparison, "standard")).max() <= 1


def test_an_arm_does_not_depend_on_its_company(tiny_shapes):
    both = run_comparison(SHORT, tiny_shapes)
    for arm in SHORT.arms:
        alone = run_comparison(replace(SHORT, arms=(arm,)), tiny_shapes)
        assert np.abs(pixels(alone, arm) - pixels(both, arm)).max() <= 1


def test_the_same_request_gives_the_same_images(tiny_shapes):
    first, second = run_comparison(SHORT, tiny_shapes), run_comparison(SHORT, tiny_shapes)
    other = run_comparison(replace(SHORT, seed=4), tiny_shapes)
    for arm in SHORT.arms:
        assert first.images[arm].tobytes() == second.images[arm].tobytes() != other.images[arm].tobytes()
        assert torch.equal(first.noises[arm], second.noises[arm])
    assert first.verdicts == second.verdicts


def test_two_at_once_do_not_mix(tiny_shapes):
    requests = [
        replace(SHORT, prompt=prompt, seed=seed, sampler=sampler, num_inference_steps=steps)
        for prompt, seed, sampler, steps in [
            ("a red star", 1, "ddim", 4),
            ("two blue hearts", 2, "euler_a", 3),
            ("a circle above a cross", 3, "dpm", 5),
        ]
    ]
    alone = [run_comparison(request, tiny_shapes) for request in requests]
    results: dict[int, Comparison] = {}

    def run(index: int) -> None:
        results[index] = run_comparison(requests[index], tiny_shapes)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, expected in enumerate(alone):
        assert astuple(results[index].request) == astuple(expected.request)
        for arm in SHORT.arms:
            assert results[index].images[arm].tobytes() == expected.images[arm].tobytes()


# --- on the way ------------------------------------------------------------------------------------------------------


def test_images_on_their_way_are_decoded_no_more_at_once_than_the_images(tiny_shapes, monkeypatch):
    """All of them at once would need four times the memory, which a GPU that just fits the images does not have."""
    decode, sizes = golden.compare.decode, []
    monkeypatch.setattr("golden.compare.decode", lambda *given: sizes.append(len(given[1])) or decode(*given))
    run_comparison(replace(SHORT, num_inference_steps=16), tiny_shapes)
    assert len(sizes) >= 4
    assert set(sizes) == {len(SHORT.arms)}


def test_images_on_their_way_are_kept_however_fast_it_goes(tiny_shapes, monkeypatch):
    monkeypatch.setattr("golden.compare.PREVIEWS_PER_SECOND", 0.001)
    comparison = run_comparison(replace(SHORT, num_inference_steps=16), tiny_shapes)
    assert list(comparison.steps) == [12, 25, 50, 75]
    assert all(len(images) == len(SHORT.arms) for images in comparison.steps.values())
    assert max(image.width for images in comparison.steps.values() for image in images) <= 96
    early, late = comparison.steps[12][0], comparison.steps[75][0]
    assert early.tobytes() != late.tobytes()
    assert run_comparison(replace(SHORT, num_inference_steps=1), tiny_shapes).steps == {}
