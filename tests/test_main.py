"""`golden render`: both images and how to render them again; bad input gets one line and exit code 2."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from golden import files, models
from golden.cli import main
from golden.drawing import to_png
from golden.errors import GoldenError, InvalidInput, MissingWeights, run_command
from golden.npnet import load_npnet, save_npnet
from golden.render import FILES, make_slugs, parse_seeds
from golden.settings import read_png
from tests.conftest import SIZE

NAMES = ["golden.png", "side_by_side.png", "standard.png"]


@pytest.fixture(autouse=True)
def tiny_default(tiny_sdxl_folder, tiny_npnet_file, tmp_path, monkeypatch):
    """The model that nobody has to name is tiny here, and takes any prompt."""
    tiny = {"repo": tiny_sdxl_folder, "npnet": str(tiny_npnet_file), "checker": None, "verifier": None}
    spec = replace(models.MODELS["shapes"], name="sdxl", sampling=models.Sampling(num_inference_steps=2), **tiny)
    monkeypatch.setitem(models.MODELS, "sdxl", replace(spec, title="SDXL"))
    monkeypatch.setitem(models.MODELS, "shapes", replace(spec, title="Shapes"))
    monkeypatch.chdir(tmp_path)


def render(*arguments: object) -> int:
    return main(["render", *map(str, arguments)])


def pixels(path: Path) -> tuple:
    with Image.open(path) as image:
        return image.size, image.tobytes()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what it writes ---------------------------------------------------------------------------------------------------


def test_two_images_and_both_side_by_side(tmp_path, capsys):
    out = tmp_path / "a" / "b"
    assert render("--prompt", "a  red star", "--seed", 3, "--out", out) == 0
    assert names_in(out) == NAMES
    side = 8 * SIZE
    assert pixels(out / "standard.png")[0] == pixels(out / "golden.png")[0] == (side, side)
    assert pixels(out / "standard.png") != pixels(out / "golden.png")
    with Image.open(out / "side_by_side.png") as sheet:
        assert sheet.size == (2 * side + 2, side)
        left, right = sheet.crop((0, 0, side, side)), sheet.crop((side + 2, 0, 2 * side + 2, side))
    assert (left.tobytes(), right.tobytes()) == (pixels(out / "standard.png")[1], pixels(out / "golden.png")[1])
    for arm, name in FILES.items():
        made = read_png((out / name).read_bytes())
        assert made["arm"] == arm
        assert made["settings"]["prompt"] == "a red star"
        assert (made["settings"]["model"], made["settings"]["seed"]) == ("sdxl", 3)
        assert made["settings"]["num_inference_steps"] == 2
        assert made["npnet"]["file"] == "npnet.safetensors"
        assert (len(made["npnet"]["sha256"]), made["device"], made["dtype"]) == (64, "cpu", "float32")
    assert str(out / "golden.png") in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_an_image_renders_the_same_again(tmp_path, name):
    changes = (
        "--num-inference-steps",
        3,
        "--guidance-scale",
        4.5,
        "--sampler",
        "euler_a",
        "--strength",
        0.7,
        "--seed",
        2**32 - 1,
    )
    render("--prompt", "a red star; “quoted”", *changes, "--out", tmp_path / "first")
    render("--from-image", tmp_path / "first" / name, "--out", tmp_path / "again")
    for each in NAMES:
        assert pixels(tmp_path / "first" / each) == pixels(tmp_path / "again" / each)
    first, again = (read_png((tmp_path / folder / name).read_bytes()) for folder in ("first", "again"))
    assert first["settings"] == again["settings"]


def test_another_size_is_kept_in_the_image(tmp_path):
    render("--prompt", "a star", "--height", 80, "--width", 72, "--out", tmp_path / "first")
    assert pixels(tmp_path / "first" / "golden.png")[0] == (72, 80)
    stored = read_png((tmp_path / "first" / "side_by_side.png").read_bytes())["settings"]
    assert (stored["height"], stored["width"]) == (80, 72)
    render("--from-image", tmp_path / "first" / "golden.png", "--out", tmp_path / "again")
    for each in NAMES:
        assert pixels(tmp_path / "first" / each) == pixels(tmp_path / "again" / each)
    render("--from-image", tmp_path / "first" / "golden.png", "--height", 64, "--out", tmp_path / "other")
    assert pixels(tmp_path / "other" / "golden.png")[0] == (72, 64)


def test_a_small_card_renders_the_same(tmp_path):
    for memory in ("auto", "low"):
        render("--prompt", "a star", "--memory", memory, "--out", tmp_path / memory)
    made = [read_png((tmp_path / memory / "golden.png").read_bytes())["memory"] for memory in ("auto", "low")]
    assert made == ["high", "low"]
    for name in NAMES:
        with Image.open(tmp_path / "auto" / name) as high, Image.open(tmp_path / "low" / name) as low:
            assert all(largest <= 1 for _, largest in ImageChops.difference(high, low).getextrema())


def test_options_go_before_what_the_image_records(tmp_path):
    render("--prompt", "a red star", "--seed", 1, "--num-inference-steps", 3, "--out", tmp_path / "first")
    render("--from-image", tmp_path / "first" / "golden.png", "--seed", 2, "--out", tmp_path / "other")
    settings = read_png((tmp_path / "other" / "golden.png").read_bytes())["settings"]
    assert (settings["prompt"], settings["seed"], settings["num_inference_steps"]) == ("a red star", 2, 3)


def test_images_are_not_overwritten_unless_asked(tmp_path):
    render("--prompt", "a star", "--out", tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in NAMES}
    with pytest.raises(InvalidInput, match=r"standard\.png exists: .*--overwrite"):
        render("--prompt", "a heart", "--out", tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in NAMES} == before
    render("--prompt", "a heart", "--out", tmp_path / "out", "--overwrite")
    assert names_in(tmp_path / "out") == NAMES
    assert {name: (tmp_path / "out" / name).read_bytes() for name in NAMES} != before


def test_a_disk_that_refuses_leaves_no_half_a_file(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(InvalidInput, match="cannot be written: No space left"):
        render("--prompt", "a star", "--out", tmp_path / "out")
    assert names_in(tmp_path / "out") == []


def test_a_folder_as_model_with_an_npnet_of_ones_own(tmp_path, tiny_sdxl_folder, tiny_npnet_file):
    render(
        "--model",
        tiny_sdxl_folder,
        "--npnet",
        tiny_npnet_file,
        "--prompt",
        "x",
        "--num-inference-steps",
        1,
        "--out",
        tmp_path / "a",
    )
    image = tmp_path / "a" / "standard.png"
    with pytest.raises(InvalidInput, match="pass it yourself, with --model"):
        render("--from-image", image, "--out", tmp_path / "b")
    render("--from-image", image, "--model", tiny_sdxl_folder, "--npnet", tiny_npnet_file, "--out", tmp_path / "b")
    assert pixels(image) == pixels(tmp_path / "b" / "standard.png")


def test_hunyuan_is_rendered_too(tmp_path, tiny_hunyuan_folder, tiny_npnet_file):
    own = ("--model", tiny_hunyuan_folder, "--npnet", tiny_npnet_file)
    render(
        *own,
        "--prompt",
        "a star",
        "--num-inference-steps",
        2,
        "--sampler",
        "heun",
        "--width",
        128,
        "--out",
        tmp_path / "a",
    )
    render("--from-image", tmp_path / "a" / "golden.png", *own, "--out", tmp_path / "b")
    assert pixels(tmp_path / "a" / "golden.png") == pixels(tmp_path / "b" / "golden.png")
    assert pixels(tmp_path / "a" / "golden.png")[0] == (128, 8 * SIZE)


def test_a_controlnet_gets_its_control_image(
    tmp_path, tiny_sdxl_folder, tiny_controlnet_folder, tiny_npnet_file, edges
):
    """And --from-image needs the same one again, since an image records only its SHA-256."""
    edges.save(tmp_path / "edges.png")
    edges.rotate(90).save(tmp_path / "other.jpg")
    own = ("--model", f"{tiny_sdxl_folder}+{tiny_controlnet_folder}", "--npnet", tiny_npnet_file)
    asked = (*own, "--prompt", "a star", "--num-inference-steps", 2)
    render(*asked, "--control", tmp_path / "edges.png", "--out", tmp_path / "a")
    image = tmp_path / "a" / "golden.png"
    for wrong in ((), ("--control", tmp_path / "other.jpg")):
        with pytest.raises(InvalidInput, match=r"with a control image of SHA-256 [0-9a-f]{12}\.\.\.: pass --control"):
            render("--from-image", image, *own, *wrong, "--out", tmp_path / "b")
    render("--from-image", image, *own, "--control", tmp_path / "edges.png", "--out", tmp_path / "b")
    assert pixels(image) == pixels(tmp_path / "b" / "golden.png")
    render(*asked, "--control", tmp_path / "other.jpg", "--out", tmp_path / "c")
    assert pixels(image) != pixels(tmp_path / "c" / "golden.png")
    with pytest.raises(InvalidInput, match="needs a control image"):
        render(*asked, "--out", tmp_path / "d")


def test_another_npnet_than_the_images_is_noticed(tmp_path, tiny_npnet_file):
    other = load_npnet(tiny_npnet_file)
    other.alpha.zero_()
    save_npnet(tmp_path / "other.safetensors", other)
    render("--prompt", "x", "--npnet", tmp_path / "other.safetensors", "--out", tmp_path / "a")
    image = tmp_path / "a" / "golden.png"
    with pytest.raises(InvalidInput, match=r"another NPNet \(other\.safetensors, SHA-256 [0-9a-f]{12}.*--npnet"):
        render("--from-image", image, "--out", tmp_path / "b")
    render("--from-image", image, "--npnet", tmp_path / "other.safetensors", "--out", tmp_path / "b")
    assert pixels(image) == pixels(tmp_path / "b" / "golden.png")


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Pass --prompt or --prompts, or --from-image"),
        (("--prompt", ""), "The prompt is empty"),
        (("--prompt", "x", "--seed", "-1"), "The seed must be"),
        (("--prompt", "x", "--num-inference-steps", "0"), "The number of steps must be"),
        (("--prompt", "x", "--guidance-scale", "nan"), "The guidance scale must be"),
        (("--prompt", "x", "--sampler", "best"), "Unknown sampler"),
        (("--prompt", "x", "--strength", "9"), "The strength must be"),
        (("--prompt", "x", "--model", "sd9"), "Unknown model 'sd9': choose one of"),
        (("--prompt", "x", "--npnet", "https://x.y/z.pth"), "is a URL"),
        (("--prompt", "x", "--npnet", "absent.safetensors"), "No weight file at absent.safetensors"),
        (("--prompt", "x", "--npnet", "absent"), "No NPNet 'absent'"),
        (("--prompt", "x", "--npnet", "hunyuan-dit"), "'hunyuan-dit' is not for SDXL|not for Shapes"),
        (("--prompt", "x", "--height", "0"), "The height must be"),
        (("--prompt", "x", "--width", "100"), "The width must be a multiple of 8 pixels"),
        (("--prompt", "x", "--height", "16"), "The height must be from 48 to 80 pixels, got 16"),
        (("--prompt", "x", "--memory", "medium"), "Unknown memory mode 'medium'"),
        (("--prompt", "x", "--device", "toaster"), "cannot run on 'toaster'"),
        (("--prompt", "x", "--control", "absent.png"), "absent.png cannot be read: No such file"),
        (("--prompt", "x", "--control", __file__), "not a readable PNG, JPEG or WebP file"),
        (("--from-image", "absent.png"), "^absent.png cannot be read: No such file"),
        (("--from-image", "."), r"\. cannot be read|Give a PNG"),
        (("--from-image", __file__), r"test_main\.py: The file is not a readable PNG"),
        (("--prompt", "x", "--out", __file__), "cannot be written"),
    ],
    ids=range(23),
)
def test_bad_input_gets_one_sentence(arguments, says, capsys, tmp_path):
    with pytest.raises(GoldenError, match=says) as caught:
        render(*arguments)
    assert "\n" not in str(caught.value)
    written = [path for path in tmp_path.rglob("*.png") if path.name in NAMES]
    assert written == []
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: render(*arguments))
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "made",
    [
        {"settings": 3},
        {"settings": {"model": ["sdxl"], "prompt": "x"}},
        {"settings": {"model": "../../evil", "prompt": "x"}},
        {"settings": {"model": "somebody/evil", "prompt": "x"}},
        {"settings": {"model": "sdxl", "prompt": ["x"]}},
        {"settings": {"model": "sdxl", "prompt": "x", "seed": "7"}},
        {"settings": {"model": "sdxl", "prompt": "x", "height": "7"}, "npnet": None},
        {"settings": {"model": "sdxl", "prompt": "x", "width": [1e9]}, "npnet": None},
        {"settings": {"model": "sdxl", "prompt": "x", "arms": ["x"], "sampler": 3}},
        {"settings": {"model": "sdxl", "prompt": "x"}, "npnet": {"file": "x", "sha256": "00"}},
        {"settings": {"model": "sdxl", "prompt": "x"}, "npnet": {}},
    ],
    ids=range(11),
)
def test_an_image_that_somebody_made_up_gets_one_sentence(tmp_path, made):
    image = Image.new("RGB", (4, 4))
    image.info["golden"] = json.dumps(made)
    (tmp_path / "odd.png").write_bytes(to_png(image))
    with pytest.raises(GoldenError) as caught:
        render("--from-image", tmp_path / "odd.png")
    assert "\n" not in str(caught.value)


def test_a_model_without_npnet_says_so(tmp_path, tiny_sdxl_folder):
    with pytest.raises(MissingWeights, match="There is no NPNet for"):
        render("--model", tiny_sdxl_folder, "--prompt", "x")
    assert not (tmp_path / "outputs").exists() or not any((tmp_path / "outputs").rglob("*.png"))


@pytest.mark.parametrize("arguments", [[], ["draw"], ["render", "--seed", "x"], ["render", "--nothing"]])
def test_wrong_usage_exits_with_2_and_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- several prompts and seeds ----------------------------------------------------------------------------------------


def test_seeds_and_prompts_name_their_images(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("A red star!\n\n  a red, star \n灯台\n", encoding="utf-8")
    out = tmp_path / "all"
    assert render("--prompts", tmp_path / "prompts.txt", "--seeds", "0..1", 7, "--out", out) == 0
    slugs = ("a-red-star", "a-red-star_2", "灯台")
    arms = ("standard", "npnet", "side_by_side")
    expected = [f"golden-{slug}-{seed}-{arm}.png" for slug in slugs for seed in (0, 1, 7) for arm in arms]
    assert names_in(out) == sorted(expected)
    assert str(out / expected[0]) in capsys.readouterr().out
    render("--prompt", "a red, star", "--seed", 7, "--out", tmp_path / "one")
    assert pixels(out / "golden-a-red-star_2-7-npnet.png") == pixels(tmp_path / "one" / "golden.png")
    made = read_png((out / "golden-灯台-1-standard.png").read_bytes())
    assert (made["settings"]["prompt"], made["settings"]["seed"], made["arm"]) == ("灯台", 1, "standard")
    render("--from-image", out / "golden-灯台-1-npnet.png", "--seeds", "7", "--out", tmp_path / "again")
    assert pixels(tmp_path / "again" / "golden-灯台-7-npnet.png") == pixels(out / "golden-灯台-7-npnet.png")


def test_seeds_are_numbers_and_ranges_with_both_ends():
    assert parse_seeds(["0..3"]) == [0, 1, 2, 3]
    assert parse_seeds(["5", "1..2", "9,8"]) == [5, 1, 2, 9, 8]
    for wrong in (["x"], ["-1"], ["3..1"], ["1", "0..2"], ["0..99999"], ["1.5"], [","], ["4294967296"]):
        with pytest.raises(InvalidInput):
            parse_seeds(wrong)


def test_each_prompt_has_a_name_of_its_own():
    assert make_slugs(["!?", "??", "../../etc/passwd", "x" * 300, "x" * 301]) == {
        "!?": "prompt",
        "??": "prompt_2",
        "../../etc/passwd": "etc-passwd",
        "x" * 300: "x" * 40,
        "x" * 301: "x" * 40 + "_2",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--prompt", "x", "--prompts", "p.txt"), "either --prompt or --prompts"),
        (("--prompt", "x", "--seed", "1", "--seeds", "1"), "either --seed or --seeds"),
        (("--prompts", "absent.txt"), "absent.txt cannot be read: No such file"),
        (("--prompts", "empty.txt"), "no prompts in empty.txt"),
        (("--prompts", "binary.txt"), "binary.txt is not valid UTF-8"),
        (("--prompts", "p.txt"), r"p\.txt, line 3: The prompt has 3000 characters"),
        (("--prompt", "x", "--seeds", "1..1"), "golden-x-1-npnet.png exists"),
    ],
)
def test_all_prompts_and_files_are_checked_before_any_image(arguments, says, tmp_path):
    (tmp_path / "p.txt").write_text("a star\n\n" + "x" * 3000 + "\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "outputs" / "render").mkdir(parents=True)
    (tmp_path / "outputs" / "render" / "golden-x-1-npnet.png").write_bytes(b"")
    with pytest.raises(InvalidInput, match=says):
        render(*arguments)
    assert names_in(tmp_path / "outputs" / "render") == ["golden-x-1-npnet.png"]
