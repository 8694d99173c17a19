"""The checker of full models: questions from prompts and files, verdicts from boxes, and the models behind it."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from geneval_cases import CASES, parse_boxes
from PIL import Image
from transformers import CLIPConfig, CLIPModel, Owlv2Config, Owlv2ForObjectDetection

from eval.benchmark import prepare, run_benchmark
from eval.settings import BenchmarkSettings
from golden.checkers import FAULTS, find_checker, identify_checker
from golden.errors import BadWeights, InvalidInput, MissingWeights
from golden.geneval import Asked, Box, Placed, Questions, judge_boxes, parse_prompt, read_questions
from golden.geneval.checker import GenEvalChecker
from golden.geneval.detector import Classifier, Detector
from golden.geneval.questions import NOUNS, RELATIONS, singular
from golden.geneval.verdicts import overlap, relations_between
from golden.shapes import change_one_attribute, check_scene, parse_caption, possible_changes, sample_scene
from golden.shapes.grammar import SHAPES, sample_caption

ALL_CASES = [(kind, *case) for kind, cases in CASES.items() for case in cases]


# --- from boxes to verdicts ------------------------------------------------------------------------------------------


def test_there_are_enough_cases():
    assert len(ALL_CASES) >= 200
    assert len({case[1:] for case in ALL_CASES}) == len(ALL_CASES), "each is another"


@pytest.mark.parametrize(("kind", "prompt", "boxes", "faults"), ALL_CASES)
def test_boxes_by_hand(kind, prompt, boxes, faults):
    verdict = judge_boxes(parse_prompt(prompt), parse_boxes(boxes))
    assert " ".join(verdict.faults) == faults, verdict
    assert verdict.correct == (not faults)
    assert verdict.correct == (verdict.score == 1)
    assert set(verdict.faults) <= set(FAULTS)


@pytest.mark.parametrize(("kind", "prompt", "boxes", "faults"), ALL_CASES[::7])
def test_order_units_and_other_nouns_change_nothing(kind, prompt, boxes, faults):
    questions, found = parse_prompt(prompt), parse_boxes(boxes)
    expected = judge_boxes(questions, found).faults
    scaled = [Box(b.noun, b.score, *(7 * x for x in (b.left, b.top, b.right, b.bottom)), b.colour, b.attributes)
              for b in found]  # fmt: skip
    # Objects equally sure are equals, so that which of them is called the first is arbitrary: make them differ.
    distinct = len({box.score for box in found}) == len(found)
    variants = [scaled, [*found, Box("zebra", 0.99, 0, 0, 99, 99)]] + ([found[::-1]] if distinct else [])
    assert all(judge_boxes(questions, each).faults == expected for each in variants)


def test_the_score_is_the_share_of_questions_that_hold():
    questions = parse_prompt("two red cars left of a blue dog")
    verdict = judge_boxes(questions, parse_boxes("car@20,20=red car@20,60=red dog@80,40=green"))
    assert dict(verdict.attributes) == {
        "car object": True,
        "car count": True,
        "car colour": True,
        "dog object": True,
        "dog colour": False,
        "left of": True,
    }
    assert verdict.score == pytest.approx(5 / 6)
    assert verdict.reasons == (
        "asked: 2 red car; found: 2 red car",
        "asked: at least 1 blue dog; found: 1 green dog",
        "asked: car left of dog; found: left of",
    )


@pytest.mark.parametrize("angle", range(0, 360, 15))
def test_relations_have_opposites(angle):
    radians = np.deg2rad(angle)
    x, y = 50 + 40 * np.cos(radians), 50 + 40 * np.sin(radians)
    one, other = Box("dog", 1, x - 2, y - 2, x + 2, y + 2), Box("cat", 1, 48, 48, 52, 52)
    opposites = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    there, back = relations_between(one, other), relations_between(other, one)
    assert {opposites[name] for name in there} == set(back)
    assert 1 <= len(there) <= 2, "beyond the margin no direction is without a name"


def test_overlap():
    square = Box("dog", 1, 0, 0, 10, 10)
    assert overlap(square, square) == 1
    assert overlap(square, Box("dog", 1, 5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap(square, Box("dog", 1, 10, 0, 20, 10)) == 0
    assert overlap(Box("dog", 1, 3, 3, 3, 3), Box("dog", 1, 3, 3, 3, 3)) == 0


# --- rendered scenes, whose truth is known ---------------------------------------------------------------------------


def boxes_of_scene(scene) -> list[Box]:
    """What a perfect detector would find in a rendered scene."""
    return [
        Box(item.shape, 0.9, item.x - item.radius, item.y - item.radius, item.x + item.radius, item.y + item.radius,
            item.colour)
        for item in scene.objects
    ]  # fmt: skip


def questions_of(request) -> Questions:
    """A caption's request as questions: in the shapes world every number is exact."""
    objects = tuple(Asked(group.shape, group.count, True, group.colour) for group in request.groups)
    relations = tuple(Placed(name, 0, index) for index, name in enumerate(request.relations, start=1))
    return Questions(objects, relations)


def test_agreement_with_the_exact_checker_on_rendered_scenes():
    rng, total, disagree, other_fault = np.random.default_rng(0), Counter(), Counter(), Counter()
    for _ in range(250):
        request = parse_caption(sample_caption(rng))
        scene = sample_scene(request, rng)
        # A background is no object, and GenEval does not care for objects that nobody asked for.
        changes = [change for change in possible_changes(request) if change not in ("background", "extra")]
        for change in (None, *changes) if request.background is None else ():
            shown = change_one_attribute(scene, request, rng, change) if change else scene
            exact = check_scene(request, shown)
            ours = judge_boxes(questions_of(request), boxes_of_scene(shown))
            total[change] += 1
            disagree[change] += exact.correct != ours.correct
            other_fault[change] += exact.fault != ours.fault
    assert min(total.values()) > 20
    assert sum(total.values()) > 300
    # Of a group's position the shapes world asks where its centre lies, GenEval where each object does.
    assert disagree.pop("position") + disagree.pop(None) <= 0.02 * sum(total.values())
    assert not +disagree
    assert other_fault["colour"] == 0
    assert other_fault["position"] <= 0.1 * total["position"]


def test_shapes_are_nouns_like_any_other():
    questions = parse_prompt("a picture of two red circles left of a blue square", SHAPES)
    assert questions == Questions(
        (Asked("circle", 2, True, "red"), Asked("square", 1, False, "blue")), (Placed("left of", 0, 1),)
    )


# --- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    ["", "\0", "a lighthouse at night", "a photo of a shiny dog", "a dog in front of a cat", "two", "a photo of",
     "a dog left of", "a photo of a red blue car", "a dog " * 200, "eleven dogs", "a dog and and a cat"],
)  # fmt: skip
def test_what_a_detector_cannot_answer_is_refused(prompt):
    with pytest.raises(InvalidInput) as error:
        parse_prompt(prompt)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_is_read_in_every_form(noun):
    assert parse_prompt(f"a photo of a {noun}").objects == (Asked(noun),)
    assert parse_prompt(f"a photo of three {noun}s").objects == (Asked(noun, 3, True),)
    assert parse_prompt(f"a pink {noun} and a brown {noun}").nouns == (noun,)
    assert singular(singular(noun)) == singular(noun)


@pytest.mark.parametrize(
    ("plural", "noun"),
    [("flamingos", "flamingo"), ("puppies", "puppy"), ("watches", "watch"), ("boxes", "box"), ("dresses", "dress"),
     ("leaves", "leaf"), ("mice", "mouse"), ("geese", "goose"), ("sheep", "sheep"), ("dress", "dress")],
)  # fmt: skip
def test_plurals(plural, noun):
    assert singular(plural) == noun


GENEVAL = [
    {"tag": "counting", "prompt": "a photo of two bears", "include": [{"class": "bear", "count": 2}],
     "exclude": [{"class": "bear", "count": 3}]},
    {"tag": "color_attr", "prompt": "a photo of a blue pizza and a red tie",
     "include": [{"class": "pizza", "count": 1, "color": "blue"}, {"class": "tie", "count": 1, "color": "red"}]},
    {"tag": "position", "prompt": "a photo of a cow below an airplane",
     "include": [{"class": "airplane", "count": 1}, {"class": "cow", "count": 1, "position": ["below", 0]}]},
]  # fmt: skip
GENEVAL_2 = [
    {"prompt": "two striped flamingos to the left of a green croissant", "vqa_list": [
        ["How many flamingos are in the image?", "two"], ["Are the flamingos striped?", "Yes"],
        ["Are there any flamingos in the image?", "Yes"],
        ["Are the flamingos to the left of the croissant?", "Yes"],
        ["How many croissants are in the image?", "one"], ["Is the croissant green?", "Yes"],
        ["Is there a croissant in the image?", "Yes"]]},
    {"prompt": "two toys playing with a sheep", "vqa_list": [
        ["How many toys are in the image?", "two"], ["How many sheep are in the image?", "one"],
        ["Are the toys playing with the sheep?", "Yes"]]},
]  # fmt: skip


def write_lines(path, entries):
    path.write_text("\n\n".join(json.dumps(entry) for entry in entries))
    return path


def test_questions_of_geneval_are_those_of_its_prompts(tmp_path):
    known = read_questions(write_lines(tmp_path / "geneval.jsonl", GENEVAL))
    assert list(known) == [entry["prompt"] for entry in GENEVAL]
    assert known["a photo of two bears"] == parse_prompt("a photo of two bears")
    assert known["a photo of a blue pizza and a red tie"] == parse_prompt("a photo of a blue pizza and a red tie")
    below = known["a photo of a cow below an airplane"]
    boxes = parse_boxes("cow@50,80 airplane@50,20")
    assert judge_boxes(below, boxes).correct
    assert judge_boxes(parse_prompt("a photo of a cow below an airplane"), boxes).correct


def test_questions_of_geneval_2_and_those_beyond_a_detector(tmp_path):
    known = read_questions(write_lines(tmp_path / "geneval2.jsonl", GENEVAL_2))
    questions = known[GENEVAL_2[0]["prompt"]]
    assert questions == Questions(
        (Asked("flamingo", 2, True, None, ("striped",)), Asked("croissant", 1, True, "green")),
        (Placed("left of", 0, 1),),
    )
    checker = GenEvalChecker(str(tmp_path / "geneval2.jsonl"))
    checker.validate_prompt(GENEVAL_2[0]["prompt"])
    assert list(islice(checker.sample_prompts(np.random.default_rng(0)), 3)) == [GENEVAL_2[0]["prompt"]] * 3
    with pytest.raises(InvalidInput, match="cannot see whether a toy is 'playing with the sheep'"):
        checker.validate_prompt(GENEVAL_2[1]["prompt"])
    with pytest.raises(InvalidInput, match="has no prompt 'a photo of a dog'"):
        checker.validate_prompt("a photo of a dog")


@pytest.mark.parametrize(
    "text",
    ["", "not json", "[1]", '{"prompt": 3}', '{"prompt": "a"}', '{"prompt": "a", "include": [{}]}',
     '{"prompt": "a", "vqa_list": [["How many dogs are in the image?", "many"]]}'],
)  # fmt: skip
def test_a_file_of_another_kind_is_one_sentence(tmp_path, text):
    path = tmp_path / "file.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidInput) as error:
        read_questions(path)
    assert str(error.value).count("\n") == 0
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_questions(tmp_path / "absent.jsonl")


def test_a_checker_with_a_file_is_named_with_it(tmp_path):
    path = write_lines(tmp_path / "geneval.jsonl", GENEVAL)
    assert find_checker(f"geneval:{path}").questions("a photo of two bears").objects[0].count == 2
    with pytest.raises(InvalidInput, match="takes no file"):
        find_checker(f"shapes:{path}")
    moved = path.rename(tmp_path / "moved.jsonl")
    assert identify_checker(f"geneval:{moved}").startswith("geneval:")
    assert len(identify_checker(f"geneval:{moved}")) == len("geneval:") + 64
    assert (identify_checker("geneval"), identify_checker(None)) == ("geneval", None)


# --- the models behind it --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """Folders with a random OWLv2 and a random CLIP, small and of the real classes."""
    folder = tmp_path_factory.mktemp("detector")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision, text = tower | {"image_size": 64, "patch_size": 16}, tower | {"vocab_size": 49408}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        owl = Owlv2Config(text_config=text | {"max_position_embeddings": 16}, vision_config=vision, projection_dim=16)
        model = Owlv2ForObjectDetection(owl)
        for weight in model.box_head.parameters():  # random ones are so large that no box has two sides
            weight.data.mul_(0.01)
        model.save_pretrained(folder / "owl")
        ends = {"bos_token_id": 49406, "eos_token_id": 49407}
        clip = CLIPConfig(text_config=text | ends, vision_config=vision, projection_dim=16)
        CLIPModel(clip).save_pretrained(folder / "clip")
    return folder


@pytest.fixture
def tiny_checker(tiny_models):
    checker = GenEvalChecker()
    checker.detector, checker.classifier = Detector(tiny_models / "owl"), Classifier(tiny_models / "clip")
    return checker


def test_boxes_are_transformers_own_and_lie_in_the_image(tiny_models):
    image = Image.effect_noise((96, 48), 60).convert("RGB")
    detector = Detector(tiny_models / "owl")
    boxes = detector.find(image, ["dog", "cat"])
    assert len(boxes) > 2
    tokens = detector.tokenize(["a photo of a dog", "a photo of a cat"])
    pixels = detector.processor(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = detector.model(input_ids=tokens.ids, attention_mask=tokens.mask, pixel_values=pixels)
    (theirs,) = detector.processor.post_process_object_detection(outputs, 0.1, [(48, 96)])
    centres = {(round(float(s), 4), round(float(x0), 2), round(float(y0), 2)) for s, (x0, y0, *_) in
               zip(theirs["scores"], theirs["boxes"], strict=True)}  # fmt: skip
    inside = [box for box in boxes if box.left > 0 and box.top > 0]
    assert inside
    assert {(round(box.score, 4), round(box.left, 2), round(box.top, 2)) for box in inside} <= centres
    for box in boxes:
        assert 0 <= box.left < box.right <= 96
        assert 0 <= box.top < box.bottom <= 48
        assert box.noun in ("dog", "cat")
        assert 0.1 <= box.score <= 1


def test_each_crop_gets_one_of_the_words(tiny_models):
    image = Image.effect_noise((96, 48), 60).convert("RGB")
    classifier, boxes = Classifier(tiny_models / "clip"), parse_boxes("dog@20,20 dog@50,20:1x1 dog@90,40:40x40")
    words = classifier.name(image, boxes, "dog", ("red", "blue", ""))
    assert len(words) == 3
    assert set(words) <= {"red", "blue", ""}
    assert classifier.name(image, boxes[1:], "dog", ("red", "blue", "")) == words[1:]
    assert classifier.name(image, [], "dog", ("red", "blue")) == []


def test_a_verdict_by_models(tiny_checker):
    image = Image.effect_noise((96, 96), 60).convert("RGB")
    verdict = tiny_checker.check("a striped red dog left of a blue car", image)
    assert len(verdict.attributes) == 6
    assert tiny_checker.check("a striped red dog left of a blue car", image) == verdict


def test_colours_are_asked_only_where_they_are_in_question(tiny_checker, monkeypatch):
    asked = []
    tiny_checker.detector.find = lambda image, nouns: parse_boxes("dog@20,20 car@70,70 car@30,80")
    monkeypatch.setattr(tiny_checker.classifier, "name", lambda image, boxes, noun, words: (
        asked.append((noun, len(boxes), words[0])) or [words[0]] * len(boxes)
    ))  # fmt: skip
    image = Image.new("RGB", (100, 100))
    assert tiny_checker.check("a dog left of a car", image).attributes
    assert asked == []
    assert tiny_checker.check("two red plastic cars and a dog", image).correct
    assert asked == [("car", 2, "red"), ("car", 2, "plastic")]


def test_a_file_s_own_attribute_is_told_from_its_absence(tiny_checker, tmp_path):
    entry = {"prompt": "a sparkling cup", "vqa_list": [["Is there a cup in the image?", "Yes"],
                                                       ["Is the cup sparkling?", "Yes"]]}  # fmt: skip
    tiny_checker.known = read_questions(write_lines(tmp_path / "own.jsonl", [entry]))
    tiny_checker.detector.find = lambda image, nouns: parse_boxes("cup@20,20")
    seen = []
    for answer, right in (("sparkling", True), ("", False)):
        tiny_checker.classifier.name = lambda image, boxes, noun, words, answer=answer: (
            seen.append(words) or [answer] * len(boxes)
        )
        assert tiny_checker.check("a sparkling cup", Image.new("RGB", (50, 50))).correct is right
    assert seen == [("sparkling", "")] * 2


def test_weights_that_are_missing_or_damaged_are_one_sentence(tiny_models, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_bytes((tiny_models / "owl" / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadWeights, match="Owlv2ForObjectDetection"):
        Detector(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeights, match=r"google/owlv2.*download it"):
        GenEvalChecker().check("a photo of a dog", Image.new("RGB", (8, 8)))


def test_prompts_are_of_every_kind():
    prompts = list(islice(GenEvalChecker().sample_prompts(np.random.default_rng(0)), 300))
    questions = [parse_prompt(prompt) for prompt in prompts]
    assert sum(bool(each.relations) for each in questions) > 20
    assert sum(any(asked.count > 1 for asked in each.objects) for each in questions) > 20
    assert sum(any(asked.colour for asked in each.objects) for each in questions) > 40
    assert {placed.relation for each in questions for placed in each.relations} == set(RELATIONS)
    assert list(GenEvalChecker().sample_examples(np.random.default_rng(0))) == []


def test_a_benchmark_with_this_checker(tiny_embedded_model, tiny_checker, tmp_path, monkeypatch):
    """`--checker geneval` on any model: rows have verdicts, and prompts that it cannot answer are dropped."""
    path = tmp_path / "prompts.txt"
    path.write_text("a photo of a dog\na photo of a red car\na lighthouse at night\n")
    monkeypatch.setattr("golden.geneval.checker.GenEvalChecker", lambda: tiny_checker)
    find_checker.cache_clear()
    try:
        settings = BenchmarkSettings(
            prompts=path, checker="geneval", arms=("standard",), num_inference_steps=2, num_seeds=1, judges=()
        )
        run = prepare(settings)
        assert [row.text for row in run.prompts.dropped] == ["a lighthouse at night"]
        rows = run_benchmark(run, tmp_path / "run").rows
    finally:
        find_checker.cache_clear()
    assert rows["prompt"].tolist() == ["a photo of a dog", "a photo of a red car"]
    assert rows["reason"].str.startswith("asked: at least 1 ").all()
    assert ((rows["score"] >= 0) & (rows["score"] <= 1)).all()
    assert (rows["right"] == (rows["fault"] == "")).all()
    with pytest.raises(InvalidInput, match="holds a run with"):
        run_benchmark(prepare(replace(settings, checker=None, prompts=None, limit=2)), tmp_path / "run")
