"""How often each judge prefers the image that people prefer; in the shapes world, that the checker finds better.

    python eval/judge_agreement.py choices.csv --judges all --judge-weights published
    python eval/judge_agreement.py --num-pairs 400                  # rendered scenes of the shapes world
    python eval/judge_agreement.py --rows runs/main/rows.parquet    # a benchmark's images, as it scored and checked

A file of choices has a row for each pair of images. Its columns are called as in Pick-a-Pic (`caption`; `image_0` or
`image_0_uid`, likewise `image_1`; `label_0`, `label_1`; `has_label` if need be), as in MMRB2 (`prompt`; `response_a`,
`response_b`; `human_preference` or `chosen`), or `prompt`, `image_a`, `image_b`, `preferred`; choices are A, B or tie.
Images are files in the file's own folder or below it.

Ties count as in Pick-a-Pic: a point if judge and people agree, half a point if one of the two has a tie and the other
none. For that a judge has a tie where its two scores lie within a margin of each other, which is set so that it has as
many ties as people.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from golden.checks import check_whole
from golden.errors import ArgumentParser, GoldenError, InvalidInput, run_command
from golden.flags import add_flags, flag, read_flags
from golden.judges.names import JUDGE_NAMES

PROMPTS = ("prompt", "caption")
FIRST = ("image_a", "response_a", "image_0", "jpg_0", "image_0_uid")
SECOND = ("image_b", "response_b", "image_1", "jpg_1", "image_1_uid")
CHOICE = ("preferred", "human_preference", "chosen")
LABELS = ("label_0", "label_1")
CHOICES = {"a": 1.0, "b": -1.0, "tie": 0.0}
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp")
PAIRS_AT_ONCE = 16
MAX_PAIRS = 100_000


@dataclass(frozen=True)
class AgreementOptions:
    """What `judge_agreement.py` takes."""

    choices: Path | None = flag(None, "a .csv file of pairs of images and the preferred one", positional=True)
    rows: Path | None = flag(None, "rows.parquet of a benchmark, whose checker is the human", metavar="FILE")
    num_pairs: int = flag(400, "without a file: pairs of rendered scenes of the shapes world")
    seed: int = flag(0, "decides the rendered scenes")
    judges: tuple[str, ...] | None = flag(
        None, f"all (those that have embedded weights, the default) or of {', '.join(JUDGE_NAMES)}", metavar="NAME"
    )
    judge_weights: str = flag("embedded", "which weights the judges load", choices=("embedded", "published"))
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, mps, ...")


@dataclass(frozen=True)
class Choice:
    """Two images of a prompt, each a file or a PIL image, and the choice: 1 for the first, -1 the second, 0 a tie."""

    prompt: str
    first: object
    second: object
    choice: float


@dataclass(frozen=True)
class Agreement:
    """A judge's points of each pair: of those with a choice, and of all (N,), each with its prompt's number."""

    decided: NDArray
    decided_prompts: NDArray
    with_ties: NDArray
    prompts: NDArray


# --- pairs -----------------------------------------------------------------------------------------------------------


def read_choices(path: Path) -> list[Choice]:
    """The pairs of a file, those that nobody judged left out.

    Raises: InvalidInput in one sentence for a missing or broken file, absent columns, and the first row whose choice or
    images make no sense, by its number.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"The choices in {path} cannot be read: {error}.") from None
    columns = list(rows[0]) if rows else []
    prompt, first, second = (_find_column(path, columns, names) for names in (PROMPTS, FIRST, SECOND))
    choice = None if set(LABELS) <= set(columns) else _find_column(path, columns, (*CHOICE, " and ".join(LABELS)))
    pairs = []
    for number, row in enumerate(rows, start=2):
        if row.get("has_label", "").strip().lower() in ("false", "0"):
            continue
        try:
            chosen = _read_labels(row) if choice is None else CHOICES[row[choice].strip().lower()]
        except (KeyError, ValueError, TypeError, AttributeError):
            raise InvalidInput(
                f"Row {number} of {path.name} has no choice: {choice or ' and '.join(LABELS)} must be "
                f"{'two numbers from 0 to 1' if choice is None else ', '.join(CHOICES)}."
            ) from None
        one, two = (_find_image(path.parent, row[column] or "") for column in (first, second))
        pairs.append(Choice(row[prompt] or "", one, two, chosen))
    if not pairs:
        raise InvalidInput(f"There are no choices in {path}.")
    return pairs


def _find_column(path: Path, columns: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in columns:
            return name
    raise InvalidInput(f"{path.name} has none of the columns {', '.join(names)}.")


def _read_labels(row: dict[str, str]) -> float:
    """Pick-a-Pic's labels: 1 and 0, or two halves for a tie."""
    one, two = (float(row[name]) for name in LABELS)
    if not (0 <= one <= 1 and 0 <= two <= 1):
        raise ValueError
    return float(np.sign(one - two))


def _find_image(folder: Path, name: str) -> Path:
    """An image below the folder, by its name with or without a suffix. Raises: InvalidInput if there is none."""
    inside = PurePosixPath(name.strip().replace("\\", "/"))
    if not name.strip() or inside.is_absolute() or ".." in inside.parts or ":" in name:
        raise InvalidInput(f"Images are named by their files below {folder}, got {name[:80]!r}.")
    for suffix in SUFFIXES:
        path = folder / f"{inside}{suffix}"
        if path.is_file():
            return path
    raise InvalidInput(f"There is no image {name[:80]!r} in {folder}.")


def render_pairs(num_pairs: int, seed: int) -> list[Choice]:
    """Two rendered scenes of each caption, right or with one or two things changed; the checker prefers the better."""
    from golden.checkers import find_checker
    from golden.shapes import change_one_attribute, parse_caption, render, sample_scene

    checker, rng = find_checker("shapes"), np.random.default_rng(seed)
    assert checker is not None
    pairs: list[Choice] = []
    captions = checker.sample_prompts(rng, held_out=True)
    while len(pairs) < num_pairs:
        caption = next(captions)
        request = parse_caption(caption)
        images = []
        for _ in range(2):
            scene = sample_scene(request, rng)
            if rng.random() < 0.6:
                scene = change_one_attribute(scene, request, rng)
            images.append(render(scene))
        first, second = images
        better = np.sign(checker.check(caption, first).score - checker.check(caption, second).score)
        pairs.append(Choice(caption, first, second, float(better)))
    return pairs


# --- scores ----------------------------------------------------------------------------------------------------------


def score_pairs(pairs: Sequence[Choice], options: AgreementOptions, device: str) -> Iterator[tuple[str, NDArray | str]]:
    """Judge by judge the difference of each pair's scores, first minus second (N,), or the judge's sentence.

    Only one judge and a few images are in memory at a time.
    """
    from golden.judges import ALL_JUDGES, find_judge, load_judge

    names = ALL_JUDGES if options.judges in (None, ("all",)) else options.judges
    for name in names:
        find_judge(name)
    for name in names:
        try:
            judge = load_judge(name, options.judge_weights, device=device)
            parts = []
            for start in range(0, len(pairs), PAIRS_AT_ONCE):
                some = pairs[start : start + PAIRS_AT_ONCE]
                images = [_open(image) for pair in some for image in (pair.first, pair.second)]
                prompts = [pair.prompt for pair in some for _ in range(2)]
                parts.append(judge.score(images, prompts).view(-1, 2).double().numpy())
            scores = np.concatenate(parts)
            yield name, scores[:, 0] - scores[:, 1]
        except GoldenError as error:
            yield name, str(error)


def _open(image: object):
    from golden.files import open_image

    return open_image(image) if isinstance(image, Path) else image


def read_benchmark(path: Path) -> tuple[list[Choice], dict[str, NDArray]]:
    """(pairs, differences by judge) of a benchmark: each variant's image beside standard's of the same prompt and seed.

    Raises: InvalidInput if it is no such file, or has no checker's score, no standard or no judge.
    """
    import pandas as pd

    try:
        rows = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as a benchmark's rows: {error}") from None
    judges = [name for name in JUDGE_NAMES if name in rows]
    missing = {"prompt", "prompt_index", "seed", "variant", "score"} - set(rows)
    if missing or not judges or "standard" not in set(rows["variant"]):
        lacks = sorted(missing) or (["a judge's scores"] if not judges else ["the variant standard"])
        raise InvalidInput(
            f"{path} lacks {', '.join(lacks)}: give the rows of a benchmark with --judges and a checker."
        )
    keys = ["prompt_index", "seed"]
    others = rows[rows["variant"] != "standard"]
    both = others.merge(rows[rows["variant"] == "standard"], on=keys, suffixes=("", "_standard"))
    choices = np.sign(both["score"].to_numpy(float) - both["score_standard"].to_numpy(float))
    pairs = [Choice(prompt, None, None, float(choice)) for prompt, choice in zip(both["prompt"], choices, strict=True)]
    differences = {name: both[name].to_numpy(float) - both[f"{name}_standard"].to_numpy(float) for name in judges}
    return pairs, differences


# --- agreement -------------------------------------------------------------------------------------------------------


def tie_margin(differences: NDArray, num_ties: int) -> float:
    """The margin within which `num_ties` of a judge's differences lie, as nearly as equal ones allow."""
    if num_ties == 0:
        return -1.0
    return float(np.sort(np.abs(differences))[num_ties - 1])


def count_points(choices: NDArray, differences: NDArray, margin: float) -> NDArray:
    """(N,) points: 1 where judge and people choose alike, 0.5 where just one of them has a tie, else 0.

    Source: Kirstain et al. 2023, arXiv 2305.01569, section 5.
    """
    judged = np.where(np.abs(differences) <= margin, 0.0, np.sign(differences))
    halves = (judged == 0) != (choices == 0)
    return np.where(judged == choices, 1.0, np.where(halves, 0.5, 0.0))


def measure_agreement(pairs: Sequence[Choice], differences: NDArray) -> Agreement:
    """The points of one judge. Of pairs with a choice, equal scores are worth half a point.

    Raises: GoldenError if a score is not a number.
    """
    if not np.isfinite(differences).all():
        raise GoldenError("A judge returned a score that is not a number.")
    choices = np.array([pair.choice for pair in pairs])
    _, prompts = np.unique([pair.prompt for pair in pairs], return_inverse=True)
    decided = choices != 0
    margin = tie_margin(differences, int((~decided).sum()))
    return Agreement(
        count_points(choices[decided], differences[decided], 0.0),
        prompts[decided],
        count_points(choices, differences, margin),
        prompts,
    )


def agreement_table(pairs: Sequence[Choice], differences: Mapping[str, NDArray | str]):
    """A row for each judge that has scores, best first; the others' sentences are the note."""
    from eval.tables import Table, format_rate
    from golden.statistics import bootstrap_mean

    num_ties = sum(pair.choice == 0 for pair in pairs)
    rows, notes = [], []
    for name, values in differences.items():
        if isinstance(values, str):
            notes.append(f"{name}: {values}")
            continue
        found = measure_agreement(pairs, values)
        decided = bootstrap_mean(found.decided, found.decided_prompts) if len(found.decided) else None
        everything = bootstrap_mean(found.with_ties, found.prompts)
        cells = [name, format_rate(decided) if decided else "", format_rate(everything) if num_ties else ""]
        rows.append((decided.value if decided else 0.0, cells))
    rows.sort(key=lambda row: -row[0])
    num_prompts = len({pair.prompt for pair in pairs})
    header = ["judge", f"of {len(pairs) - num_ties} with a choice", f"of all, {num_ties} ties among them"]
    title = f"Agreement on {len(pairs)} pairs of {num_prompts} prompts"
    notes.insert(0, "Chance is 50 %. Intervals: 95 %, bootstrap over prompts.")
    return Table(title, header, [cells for _, cells in rows], "\n".join(notes))


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("choices", nargs="?", type=Path, help="a .csv file of pairs of images and the preferred one")
    add_flags(parser, AgreementOptions, skip=("choices",))
    options = read_flags(AgreementOptions, parser.parse_args(argv))
    if options.choices and options.rows:
        raise InvalidInput("Give a file of choices or --rows, not both.")
    check_whole("number of pairs", options.num_pairs, 2, MAX_PAIRS)
    from eval.tables import format_text
    from golden.model import pick_device

    if options.rows:
        pairs, differences = read_benchmark(options.rows)
    else:
        pairs = read_choices(options.choices) if options.choices else render_pairs(options.num_pairs, options.seed)
        differences = dict(score_pairs(pairs, options, pick_device(options.device)))  # type: ignore[arg-type]
    table = agreement_table(pairs, differences)
    print(format_text(table))
    return 0 if table.body else 1


if __name__ == "__main__":
    run_command(main)
