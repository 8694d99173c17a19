"""The documents' commands and figures: the convention, what would be found, and the quick half of the real ones."""

from pathlib import Path

import pytest

from eval import verify_readme
from eval.verify_readme import (
    ANSWERED,
    FILES,
    ROOT,
    check_answers,
    check_options,
    check_text,
    commands_of,
    compare,
    main,
    read_blocks,
    read_help,
    run_block,
)
from golden.errors import InvalidInput

PAGE = """# Title

Before, 7.0.

## One

It prints **91.3 %** and +1.8 [+0.2, +3.5] of 1,106.

```sh
echo "right  91.4 % of 1,106"      # a comment
A=1 printf 'gain \\
%s' +1.75
```
<!-- verify: 2 s
right = 91.3 +- 0.2
gain = +1.8 +- 0.1
right.*of = 1,106 +- 0
-->

## Two

```sh
golden render --prompt "a star" --seed 3 --out runs/images
```

```python
print("no shell")
```
"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "PAGE.md"
    path.write_text(PAGE)
    return path


def test_blocks_are_found_with_their_figures(page):
    one, two = read_blocks(page)
    assert (one.place, two.place) == ("PAGE.md:9", "PAGE.md:22")
    assert (one.seconds, two.seconds) == (2.0, None)
    assert [(figure.pattern, figure.value, figure.spread) for figure in one.figures] == [
        ("right", "91.3", 0.2), ("gain", "+1.8", 0.1), ("right.*of", "1,106", 0.0),
    ]  # fmt: skip
    assert "Before" not in one.section
    assert "verify" not in one.section
    assert [words[0] for words in commands_of(one.script)] == ["echo", "printf"]


def test_a_page_that_is_right(page, capsys):
    assert main([str(page)]) == 0
    printed = capsys.readouterr().out
    assert "ok        PAGE.md:9" in printed
    assert "3 figures compared" in printed
    assert "options only: it states no time" in printed
    assert printed.endswith("no mismatch\n")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("right  91.4", "right  91.6", "right = 91.6, the text says 91.3 +- 0.2"),
        ("right  91.4", "wrong  91.4", "right is not in the output"),
        ("**91.3 %**", "**91.2 %**", "right = 91.3 does not stand in the text"),
        ("It prints", "It prints 7, see above 7.0;", None),
        ("+1.75", "-1.75", "gain = -1.75"),
        ("of 1,106.", "of 1,107.", "does not stand in the text"),
        ("--seed 3", "--sed 3", "golden render has no option --sed"),
        ("golden render", "golden rendr", "there is no golden rendr"),
        ("golden render --prompt", "python eval/none.py --prompt", "there is no eval/none.py"),
        ('echo "right', 'false; echo "right', "ended with 1"),
    ],
)
def test_what_is_wrong_is_found(page, capsys, old, new, fault):
    assert old in PAGE
    page.write_text(PAGE.replace(old, new, 1))
    assert main([str(page)]) == (1 if fault else 0)
    printed = capsys.readouterr().out
    assert fault is None or fault in printed
    assert ("MISMATCH" in printed) == bool(fault)


@pytest.mark.parametrize(
    "comment", ["<!-- verify: soon -->", "<!-- verify: 3 s\nright 91.3\n-->", "<!-- verify: 3 s\n"]
)
def test_a_broken_comment_is_refused_with_its_place(page, comment):
    page.write_text(f"```sh\necho\n```\n{comment}\n")
    with pytest.raises(InvalidInput, match=r"below PAGE\.md:1 must be"):
        read_blocks(page)


def test_long_blocks_are_not_run(page, monkeypatch, capsys):
    page.write_text(PAGE.replace("verify: 2 s", "verify: 21 s"))
    monkeypatch.setattr(verify_readme, "run_block", lambda block: pytest.fail("it was run"))
    assert main([str(page), "--quick"]) == 0
    assert "options only: it takes 21 s" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match="no file"):
        main(["none.md"])


def test_outputs_under_runs_are_thrown_away_and_python_is_this_one(page):
    page.write_text(
        "```sh\npython -c 'import sys; print(sys.executable)'\nmkdir -p runs/x; echo 1 > runs/x/y; cat runs/x/y\n"
        "golden --version\n```\n<!-- verify: 9 s\n-->\n"
    )
    (block,) = read_blocks(page)
    before = {path.name for path in (ROOT / "runs").glob("*")} if (ROOT / "runs").exists() else None
    output, problem = run_block(block)
    assert problem == ""
    assert output.splitlines()[1] == "1"
    assert output.splitlines()[2].startswith("golden ")
    after = {path.name for path in (ROOT / "runs").glob("*")} if (ROOT / "runs").exists() else None
    assert after == before


def test_a_block_that_takes_too_long_is_stopped(page):
    page.write_text("```sh\nsleep 30\n```\n<!-- verify: 0.1 s\n-->\n")
    (block,) = read_blocks(page)
    assert run_block(block) == ("", "took more than 0 s")


def test_help_of_every_kind_is_read():
    assert "--num-pairs" in read_help("eval/judge_agreement.py")
    assert "render" in read_help("golden")
    assert "--seed" in read_help("golden", "render")
    assert read_help("-m", "golden.nothing") is None
    assert "--quick" in read_help("eval/verify_readme.py")


@pytest.mark.parametrize("name", FILES)
def test_the_real_documents_name_options_and_figures_that_exist(name):
    """The half of the check that renders nothing; CI runs the short blocks as well."""
    blocks = read_blocks(ROOT / name)
    assert blocks
    assert [fault for block in blocks for fault in (*check_text(block), *check_options(block))] == []


@pytest.mark.parametrize("name", ANSWERED)
def test_the_real_documents_say_what_the_app_says(name):
    assert check_answers((ROOT / name).read_text(), ANSWERED[name]) == []


def test_a_table_that_differs_from_the_apps_answer_is_found():
    text = (ROOT / "eval" / "RESULTS.md").read_text()
    assert "+14.1 [+10.5, +17.8]" in text
    assert check_answers(text.replace("+14.1 [+10.5, +17.8]", "+14.1 [+10.9, +17.8]"), ["npnet"]) == [
        "shapes on shapes-hard-400: npnet = +14.1 [+10.5, +17.8] does not stand in the text"
    ]


def test_figures_are_compared_with_the_first_number_after_the_match():
    block = verify_readme.Block("x:1", "", 1.0, (verify_readme.Figure("NPNet.*right", "93.1", 0.05),), "")
    assert compare(block, "standard right 91.3\nNPNet 1 right 93.12 +1.8") == []
    assert compare(block, "NPNet 1 right nothing") == ["x:1: NPNet.*right is not in the output"]
    assert Path(verify_readme.__file__).is_relative_to(ROOT)
