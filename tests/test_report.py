"""The report: figures in the paper's layout, no markup but its own, and every plot drawn from known rows."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval.answer import describe_answer
from eval.page import fill_template
from eval.plots import inline_svg, win_rates
from eval.rendering import Variant, make_thumbnail
from eval.report import write_report
from eval.result_tables import category_effects_table, layout_table, paper_table
from eval.results import Gallery, Results, Section
from eval.sections import make_sections, say_result
from eval.suites import SUITES
from eval.summary import compare_all, find_categories, preference
from eval.tables import Table, format_html, format_latex, format_markdown, format_text
from golden import models
from golden.errors import GoldenError
from golden.models import MODELS
from golden.paper import METRICS, PAPER
from golden.statistics import Interval
from golden.ui import known

HOSTILE = '<script>alert("1")</script> & | $x_1$ \\end{table}'
VARIANTS = [Variant(name, name, 20, 5.5, "ddim") for name in ("standard", "npnet", "random")]


def make_results(
    suite: str = "main", variants: list[Variant] | None = None, num_prompts: int = 8, **changes
) -> Results:
    """Rows of 3 seeds, of which the first prompt is hostile; npnet is better on even prompts."""
    rng = np.random.default_rng(3)
    variants = variants or VARIANTS
    rows = [
        {
            "prompt_index": prompt,
            "category": ("even", "odd")[prompt % 2],
            "prompt": HOSTILE if prompt == 0 else f"prompt {prompt}",
            "seed": seed,
            "variant": variant.name,
            "arm": variant.arm,
            "distance": 0.0,
            "right": bool(rng.random() < 0.5) if prompt else variant.arm != "npnet",
            "score": 1.0,
            "reason": "",
            **{
                name: rng.normal(1, 0.2) + (variant.arm == "npnet") * (0.3 if prompt % 2 == 0 else -0.3)
                for name in METRICS
            },
        }
        for prompt in range(num_prompts)
        for seed in range(3)
        for variant in variants
    ]
    table = pd.DataFrame(rows)
    table["fault"] = np.where(table["right"], "", "colour")
    features = rng.normal(size=(len(table), 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    thumbnail = make_thumbnail(Image.new("RGB", (16, 16), (200, 30, 30)))
    extras = table[["prompt_index", "seed", "variant"]].assign(features=list(features), thumbnail=thumbnail)
    effects = compare_all(table, variants)
    timings = [{"units": 24, "noise": {"npnet": 2.4}, "sampling": {}, "measuring": 0.0}]
    for variant in variants:
        timings[0]["sampling"][str(variant.group)] = 31.2
    manifest = {
        "identity": {
            "model": "shapes",
            "prompts": {"name": HOSTILE, "num": 8},
            "bf16": False,
            "judges": list(METRICS),
            "judge_weights": "embedded",
        },
        "starts": [{"time": "now", "device": HOSTILE, "versions": {"torch": "2"}, "commit": None}],
    }
    by_category = [e for name in find_categories(table) for e in compare_all(table, variants, name)]
    results = Results(
        SUITES[suite], "shapes", "shapes-553", variants, table, effects, by_category, timings, manifest, extras
    )
    return replace(results, **changes)


class Checker(HTMLParser):
    """Collects the tags, the texts and whatever a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(make_results(), folder)
    return folder


def test_the_page_is_one_file_without_scripts_and_says_hostile_text_as_text(written):
    page = Checker()
    page.feed((written / "report.html").read_text())
    assert not page.open
    assert "script" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.fetched)
    assert any(HOSTILE in text for text in page.texts)
    assert page.tags.count("svg") >= 4
    assert page.tags.count("img") >= 12
    assert "prefers-color-scheme: dark" in (written / "report.html").read_text()


def test_ids_of_a_page_are_its_own(written):
    ids = re.findall(r'\bid="([^"]+)"', (written / "report.html").read_text())
    anchors = [
        name for name in ids if not re.search(r"-(patch|line|axes|figure|text|xtick|ytick|legend|m[0-9a-f]{8})", name)
    ]
    assert len(set(anchors)) == len(anchors)


def test_plots_are_written_as_png_and_svg_and_linked(written):
    names = {path.name for path in (written / "plots").iterdir()}
    stems = {Path(name).stem for name in names}
    assert stems == {"win_rates", "right_differences", "differences", "best_of_n_right"}
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    for stem in stems:
        with Image.open(written / "plots" / f"{stem}.png") as image:
            assert min(image.size) > 300
        assert f"plots/{stem}.png" in (written / "report.md").read_text()


def test_a_plot_takes_the_colour_of_the_page():
    svg = inline_svg(win_rates(make_results().effects))
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "<?xml" not in svg
    assert "<metadata" not in svg


def test_the_layout_is_the_papers_in_its_units():
    results = make_results()
    table = layout_table(results.rows, results.effects, results.metrics)
    assert table.header == ["arm", *METRICS[:-1], "MPS (%)", "right images (%)"]
    cells = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.body}
    own = results.rows[results.rows["variant"] == "npnet"]
    assert cells["npnet"]["PickScore"] == f"{own['PickScore'].mean():.2f}"
    assert cells["npnet"]["ImageReward"] == f"{100 * own['ImageReward'].mean():.2f}"
    assert cells["npnet"]["right images (%)"] == f"{100 * own['right'].mean():.2f}"
    assert cells["npnet"]["MPS (%)"] == f"{100 * preference(results.rows, 'npnet', 'standard'):.2f}"
    assert cells["standard"]["MPS (%)"] == "50.00"
    for i, j in table.bold:
        column = [row[j] for row in table.body]
        assert float(column[i]) == max(map(float, column))


def test_an_arm_without_prompts_of_a_category_leaves_its_cell_empty():
    effects = [effect for effect in make_results().by_category if effect.metric == "HPSv2"]
    known = [effect for effect in effects if (effect.variant, effect.category) != ("random", "even")]
    table = category_effects_table(known)
    assert table.header == ["category", "prompts", "npnet", "random"]
    cells = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.body}
    whole = {row[0]: dict(zip(table.header, row, strict=True)) for row in category_effects_table(effects).body}
    assert cells["even"].pop("random") == ""
    whole["even"].pop("random")
    assert cells == whole


def test_the_papers_figures_stand_beside_ours_or_are_said_to_be_anothers():
    own = paper_table("dreamshaper", "pick-a-pic")
    assert own.body[1][1] == "22.73"
    assert not own.note
    other = paper_table("shapes", "shapes-553")
    assert "SDXL on Pick-a-Pic" in other.title
    assert "cannot be compared" in other.note
    assert other.body[2][1] == "+0.17"
    assert all(set(figures) <= set(METRICS) for figures in PAPER.values())


def test_a_table_is_the_same_in_every_form():
    table = Table(HOSTILE, ["a", "b"], [[HOSTILE, "1.00"], ["x", "2.00"]], "note", frozenset({(1, 1)}))
    text, markdown, latex, html = (f(table) for f in (format_text, format_markdown, format_latex, format_html))
    assert all("2.00" in form for form in (text, markdown, latex, html))
    assert "**2.00**" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert r"\textbf{2.00}" in latex
    assert latex.count(r"\end{table}") == 1
    assert r"\$x\_1\$" in latex
    assert "<script" not in html
    assert '<td class="bold">2.00</td>' in html
    assert len({len(line.rstrip()) for line in text.splitlines()[1:3]}) <= 2


def test_prompts_that_lose_are_shown_with_their_images():
    galleries = [
        block for section in make_sections(make_results()) for block in section.blocks if isinstance(block, Gallery)
    ]
    lost = next(gallery for gallery in galleries if "lose" in gallery.title)
    title, images = lost.rows[0]  # the first prompt is right with every arm but NPNet
    assert title == f"{HOSTILE} (-100.00)"
    assert [label for label, _ in images[:2]] == ["standard, seed 0, right", "npnet, seed 0, wrong (colour)"]
    with Image.open(io.BytesIO(images[0][1])) as image:
        assert image.size == (16, 16)


def test_seconds_are_shared_by_what_was_denoised_together():
    seconds = make_results().seconds_per_image()
    assert seconds["standard"] == pytest.approx(31.2 / 3 / 24)
    assert seconds["npnet"] == pytest.approx((31.2 / 3 + 2.4) / 24)


@pytest.mark.slow
def test_suites_with_an_axis_get_a_curve_or_a_scatter(tmp_path):
    steps = [
        Variant(f"{arm} {n} steps", arm, n, 5.5, "ddim", baseline=f"standard {n} steps")
        for n in (5, 10)
        for arm in ("standard", "npnet")
    ]
    write_report(make_results("steps", steps), tmp_path / "steps")
    assert (tmp_path / "steps" / "plots" / "curves.svg").is_file()
    assert (tmp_path / "steps" / "plots" / "quality_against_time.svg").is_file()
    samplers = [
        Variant(f"{arm} {s}", arm, 20, 5.5, s, baseline=f"standard {s}")
        for s in ("ddim", "dpm")
        for arm in ("standard", "npnet")
    ]
    write_report(make_results("samplers", samplers), tmp_path / "samplers")
    assert not (tmp_path / "samplers" / "plots" / "curves.svg").is_file()
    assert "dpm" in (tmp_path / "samplers" / "plots" / "quality_against_time.svg").read_text()


def test_what_a_suite_measures_beside_is_shown(tmp_path):
    line = np.linspace(1, 0.5, 16)
    results = make_results("singular", singular={"npnet": (line, line)}, frechet={"npnet": Interval(0.5, 0.4, 0.6)})
    write_report(replace(results, left_out="Something is left out."), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "0.5000 [0.4000, 0.6000]" in text
    assert "Something is left out." in text
    assert (tmp_path / "plots" / "singular_vectors.png").is_file()


def test_a_judges_name_keeps_its_capitals():
    results = make_results()
    judged = replace(results, rows=results.rows.drop(columns=["right", "fault"]))
    assert say_result(judged).startswith("PickScore: ")


def test_a_report_without_judges_or_a_second_seed_has_no_empty_sections(tmp_path):
    results = make_results()
    rows = results.rows[results.rows["seed"] == 0].drop(columns=list(METRICS))
    effects = compare_all(rows, VARIANTS)
    extras = results.extras[results.extras["seed"] == 0].drop(columns="features")
    sections = make_sections(replace(results, rows=rows, effects=effects, by_category=[], extras=extras))
    titles = [section.title for section in sections]
    assert "Choosing among seeds" not in titles
    assert not any("Diversity" in block.title for section in sections for block in section.blocks)
    assert titles[0] == "The result"
    assert titles[-1] == "How this was made"


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GoldenError, match="Cannot write to"):
        write_report(make_results(), tmp_path / "file" / "report")


def test_pairs_of_several_judges_are_compared_and_an_arm_may_stand_alone(tmp_path):
    rng = np.random.default_rng(0)
    columns = {f"{side}_{name}": rng.normal(size=50) for side in ("source", "target") for name in ("HPSv2", "AES")}
    pairs = pd.DataFrame(columns).assign(prompt=[f"prompt {index % 20}" for index in range(50)])
    write_report(make_results(pairs=pairs), tmp_path / "pairs")
    assert "Pairs of source and target noise" in (tmp_path / "pairs" / "report.md").read_text()
    alone = [Variant("npnet", "npnet", 20, 5.5, "ddim")]
    write_report(make_results(variants=alone), tmp_path / "alone")
    assert "Diversity across seeds" in (tmp_path / "alone" / "report.md").read_text()


def test_wrong_images_are_split_by_fault_and_older_runs_still_open(tmp_path):
    results = make_results()
    write_report(results, tmp_path / "new")
    text = (tmp_path / "new" / "report.md").read_text()
    assert "## What goes wrong" in text
    wrong = 100 * (~results.rows.loc[results.rows["variant"] == "random", "right"]).mean()
    assert f"| random | {wrong:.2f} | {wrong:.2f} |" in text
    older = replace(results, rows=results.rows.drop(columns="fault"))
    write_report(older, tmp_path / "old")
    assert "What goes wrong" not in (tmp_path / "old" / "report.md").read_text()


def test_a_report_of_few_prompts_has_no_interval_and_nothing_bold(tmp_path):
    printed = write_report(make_results(num_prompts=4), tmp_path)
    text = (tmp_path / "report.md").read_text()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert not any("**" in line for line in tables)
    assert not any(re.search(r"\d \[", line) for line in tables)
    assert "An interval takes at least 8 different prompts." in printed
    assert 'class="bold"' not in (tmp_path / "report.html").read_text()
    assert "nan" not in text


def test_a_value_is_markup_in_no_place_of_the_page():
    page = fill_template(
        "report.html",
        title=HOSTILE,
        subtitle=HOSTILE,
        sections=[
            Section(
                HOSTILE,
                HOSTILE,
                [
                    Gallery(HOSTILE, [(HOSTILE, [(HOSTILE, b"x")])], HOSTILE),
                    Table(HOSTILE, [HOSTILE], [[HOSTILE]], HOSTILE),
                ],
            )
        ],
    )
    assert "<script" not in page
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert "script" not in checker.tags


# --- the answer ------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_answer_for_the_page(tmp_path, monkeypatch):
    """What the app shows of a model is the run's own figures: the page reads the file that a report left."""
    results = make_results()
    write_report(results, tmp_path)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert (answer["num_prompts"], answer["num_seeds"]) == (8, 3)
    for variant in ("standard", "npnet", "random"):
        right = results.rows.loc[results.rows["variant"] == variant, "right"].mean()
        assert answer["arms"][variant]["right"] == pytest.approx(right)
    effect = next(e for e in results.effects if (e.variant, e.metric) == ("npnet", "right"))
    assert answer["arms"]["npnet"]["difference"] == [
        effect.difference.value,
        effect.difference.low,
        effect.difference.high,
    ]
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    spec = replace(MODELS["shapes"], repo=str(tmp_path / "model"))
    assert known.read_measured(spec).answer.startswith("On 8 test prompts golden is right on ")


def test_rows_that_nobody_checked_are_no_answer():
    results = make_results()
    assert describe_answer(replace(results, rows=results.rows.drop(columns=["right", "fault"]))) is None
