"""The section on choosing among seeds: what a judge gains by it, and how many seeds NPNet is worth."""

from eval.plots import best_of_n
from eval.rendering import Variant
from eval.result_tables import matrix_table
from eval.results import Block, Results, Section
from eval.selection import (
    best_of,
    best_of_curve,
    cluster_scores,
    held_out_gain,
    judge_matrix,
    pairs_matrix,
    scores_of,
    worth_in_seeds,
)
from eval.summary import RIGHT, mean_of
from eval.tables import Table, format_interval, format_value, name_metric


def choosing_seeds(results: Results) -> Section:
    """Best of N seeds by each judge, how many seeds NPNet is worth, and held-out judges."""
    title, focus = "Choosing among seeds", results.focus
    if results.num_seeds < 2 or not results.judges or focus is None or focus.arm != "npnet":
        return Section(title, "", [])
    rows, baseline, num = results.rows, focus.baseline, results.num_seeds
    tables = {name: scores_of(rows, baseline, name) for name in results.metrics}
    first = results.metrics[0]
    lines = {name: best_of_curve(tables[name], tables[first]).mean(0) for name in results.metrics}
    matrix = judge_matrix(rows, baseline, results.metrics, num)
    note = (
        "Gain over a random seed, in standard deviations of the judge that scores; in bold if the 95 % interval "
        "excludes zero. The diagonal is flattering: it is the judge's own preference. The last column is the mean of "
        "the others."
    )
    held_out = {name: held_out_gain(matrix, name) for name in results.metrics}
    blocks: list[Block] = [
        equal_cost(results, focus),
        worth_table(results, focus),
        best_of_n(lines, mean_of(rows, focus.name, first), first, focus.name),
        matrix_table(f"Best of {num} standard seeds, judges held out", matrix, held_out, note),
    ]
    if table := held_out_pairs(results):
        blocks.append(table)
    text = "A judge can choose among standard images instead. N seeds cost N images, NPNet little more than one."
    return Section(title, text, blocks)


def worth_table(results: Results, focus: Variant) -> Table:
    """By metric, how many standard seeds the focus is worth."""
    rows, chooser, num = results.rows, results.judges[0], results.num_seeds
    tables = {name: scores_of(rows, focus.baseline, name) for name in results.metrics}
    body = []
    for measured in results.metrics:
        golden = scores_of(rows, focus.name, measured).mean(1)
        clusters = cluster_scores(rows, focus.baseline, measured)
        cells = [
            format_interval(worth_in_seeds(best_of_curve(tables[name], tables[measured]), golden, clusters), 1)
            for name in dict.fromkeys([measured, chooser])
        ]
        body.append([name_metric(measured), cells[0], cells[-1]])
    return Table(
        f"What {focus.name} is worth in standard seeds",
        ["measured by", "chosen by itself", f"chosen by {chooser}"],
        body,
        f"1 means one seed or fewer, {num} means {num} or more; intervals by bootstrap over prompts.",
    )


def held_out_pairs(results: Results) -> Table | None:
    """The matrix of judges that keep pairs, if there are pairs with judges' scores."""
    if results.pairs is None:
        return None
    names = [name for name in results.metrics if f"target_{name}" in results.pairs]
    kept = pairs_matrix(results.pairs, names)
    held_out = {name: held_out_gain(kept, name) for name in dict.fromkeys(chooser for chooser, _ in kept)}
    note = "Gain of the pairs that one judge keeps (target above source) by another judge, in its standard deviations."
    return matrix_table("Pairs of source and target noise, judges held out", kept, held_out, note) if kept else None


def equal_cost(results: Results, focus: Variant) -> Table:
    """What the same seconds buy: one golden image, or standard seeds among which a judge chooses."""
    rows, seconds = results.rows, results.seconds_per_image()
    judges = [metric for metric in results.metrics if metric != RIGHT]
    tables = {name: scores_of(rows, focus.baseline, name) for name in results.metrics}
    unit = seconds[focus.baseline] or 1.0
    body = [
        [variant.name, f"{seconds[variant.name] / unit:.2f}"]
        + [format_value(metric, mean_of(rows, variant.name, metric).value) for metric in results.metrics]
        for variant in results.variants
    ]
    body += [
        [f"best of 2 by {judge}", "2.00"]
        + [format_value(metric, best_of(tables[judge], tables[metric], 2).mean()) for metric in results.metrics]
        for judge in judges
    ]
    header = ["images", "time", *map(name_metric, results.metrics)]
    note = f"Time as a multiple of one image of {focus.baseline}, without the time of the judge that chooses."
    return Table("What the time buys", header, body, note)
