"""The sections of a report: each a function of the results, left out if it has nothing to show."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from eval.distances import find_diversities
from eval.golden_noise import all_noises
from eval.plots import curves, difference_distributions, quality_against_time, right_differences, similarity, win_rates
from eval.rendering import Variant, first_sampling
from eval.result_tables import (
    category_effects_table,
    category_means_table,
    diversity_table,
    effects_table,
    fault_differences_table,
    faults_table,
    layout_table,
    paper_table,
)
from eval.results import Block, Gallery, Results, Section
from eval.seed_sections import choosing_seeds
from eval.summary import (
    RIGHT,
    clusters_of,
    find_faults,
    mean_of,
    pair_rows,
)
from eval.tables import Table, begin, find_units, format_interval, name_metric
from eval.words import COUNTING, say_effect
from golden.statistics import Interval

NUM_SHOWN = 6  # prompts in a gallery


def make_sections(results: Results) -> list[Section]:
    """The report, from the result down to how it was made; empty sections are left out.

    A suite of several samplings begins with all of them, and the rest is about the first.
    """
    sections = [first_section(results)]
    if results.suite.at_samplings:
        results = results.only(first_sampling(results.variants))
        sections.append(result(results))
    sections += [make(results) for make in SECTIONS]
    return [section for section in sections if section.blocks or section.text]


def first_section(results: Results) -> Section:
    """The finding: of a suite of several samplings, under all of them."""
    return all_noises(results) if results.suite.at_samplings else result(results)


def result(results: Results) -> Section:
    blocks: list[Block] = [layout_table(results.rows, results.effects, results.metrics)]
    if find_diversities(results.extras):
        blocks.append(diversity_table(results.extras, results.variants))
    if any(metric in results.metrics for metric in ("PickScore", "HPSv2")):
        blocks.append(paper_table(results.model, results.prompts))
    text = " ".join(filter(None, [results.left_out, say_result(results)]))
    return Section("The result", text, blocks)


def say_result(results: Results) -> str:
    """The first finding in words: the gain of the focus in the first metric, and whether it is significant."""
    focus, metric = results.focus, results.metrics[0]
    effect = next((e for e in results.effects if focus and e.variant == focus.name and e.metric == metric), None)
    if effect is None:
        return ""
    return say_effect(effect, clusters_of(results.rows).nunique())


def differences(results: Results) -> Section:
    blocks: list[Block] = []
    for name in dict.fromkeys(effect.variant for effect in results.effects):
        blocks.append(effects_table([effect for effect in results.effects if effect.variant == name]))
    if blocks and any(effect.metric != RIGHT for effect in results.effects):
        blocks.append(win_rates(results.effects))
        if results.focus:
            pairs = pair_rows(results.rows, results.focus.name, results.focus.baseline, results.metrics)
            blocks.append(difference_distributions(pairs, results.metrics, results.focus.name, results.focus.baseline))
    return Section("Differences", COUNTING if blocks else "", blocks)


def faults(results: Results) -> Section:
    """What is wrong with wrong images, if a checker says."""
    if not find_faults(results.rows):
        return Section("What goes wrong", "", [])
    blocks: list[Block] = [faults_table(results.rows)]
    if results.focus:
        blocks.append(fault_differences_table(results.rows, results.focus.name, results.focus.baseline))
    return Section("What goes wrong", "", blocks)


def categories(results: Results) -> Section:
    groups = list(dict.fromkeys(effect.category for effect in results.by_category))
    metric = results.metrics[0]
    if not groups:
        return Section("By category of prompt", "", [])
    chosen = [effect for effect in results.by_category if effect.metric == metric]
    blocks: list[Block] = [category_means_table(results.rows, metric), category_effects_table(chosen)]
    if metric == RIGHT:
        overall = [effect for effect in results.effects if effect.metric == RIGHT]
        blocks.append(right_differences([*overall, *chosen]))
    return Section("By range of seeds" if len(results.suite.seed_starts) > 1 else "By category of prompt", "", blocks)


def along_axis(results: Results) -> Section:
    """Curves of every metric along the setting that the suite varies, and quality against time."""
    axis = results.suite.axis
    words = axis.replace("num_inference_steps", "number of steps").replace("_", " ")
    if not axis:
        return Section("Along the axis", "", [])
    seconds, metric = results.seconds_per_image(), results.metrics[0]
    scatter = quality_against_time(
        {name: (seconds[name], mean_of(results.rows, name, metric)) for name in seconds}, metric
    )
    if axis == "sampler":
        return Section("Samplers", "", [scatter])
    means: dict[str, dict[str, list[tuple[float, Interval]]]] = {}
    for name in results.metrics:
        for variant in results.variants:
            # The standard arm is NPNet's at strength 0, and that of another norm at norm 1.
            own = {"strength": 0.0, "best_norm": 1.0}.get(axis) if variant.arm == "standard" else None
            at = getattr(variant, axis) if own is None else own
            arm = {"strength": "npnet", "best_norm": "source noise"}.get(axis, variant.arm)
            means.setdefault(name, {}).setdefault(arm, []).append((at, mean_of(results.rows, variant.name, name)))
    for points in (points for by_arm in means.values() for points in by_arm.values()):
        points.sort(key=lambda point: point[0])
    blocks: list[Block] = [curves(means, words)]
    text = say_best_norm(results) if axis == "best_norm" else ""
    return Section(f"Along the {words}", text, [*blocks, *([scatter] if axis == "num_inference_steps" else [])])


def say_best_norm(results: Results) -> str:
    """The norm with the highest mean of the first metric, and where it is written down."""
    metric = results.metrics[0]
    best = max(results.variants, key=lambda variant: mean_of(results.rows, variant.name, metric).value)
    return (
        f"{begin(name_metric(metric))}: highest at {best.best_norm or 1:g} times the source noise. Make that the "
        "model's best_norm in golden/models.py, or use --best-norm for one run; choose it on other prompts than those "
        "that it is tested on."
    )


def noises_and_real_images(results: Results) -> Section:
    blocks: list[Block] = []
    if results.singular:
        blocks.append(similarity(results.singular))
        body = [[arm, f"{left.mean():.3f}", f"{right.mean():.3f}"] for arm, (left, right) in results.singular.items()]
        blocks.append(Table("Mean over all ranks", ["arm", "left vectors", "right vectors"], body))
    if results.frechet:
        body = [[name, format_interval(value, 4)] for name, value in results.frechet.items()]
        note = (
            "Between Gaussians fitted to CLIP embeddings of the images and of real ones. It falls with the number of "
            "images: compare arms of one run only. Differs from the paper: not the features of Inception."
        )
        blocks.append(Table("Frechet distance to real images", ["arm", "distance [95 %]"], body, note))
    return Section("Noises" if results.singular else "Real images", "", blocks)


def losses_and_gains(results: Results) -> Section:
    """The prompts on which the focus loses, and gains, most: by the first metric, then by the mean of all."""
    title, focus = "Largest losses and gains", results.focus
    if focus is None:
        return Section(title, "", [])
    pairs = pair_rows(results.rows, focus.name, focus.baseline, results.metrics)
    columns = [f"{metric}_difference" for metric in results.metrics]
    by_prompt = pairs.groupby("prompt_index")[columns].mean()
    in_spreads = by_prompt / pairs[columns].std().replace(0, 1).fillna(1)
    ranked = by_prompt[columns[0]][
        in_spreads.assign(all=in_spreads.mean(axis=1)).sort_values([columns[0], "all"]).index
    ]
    lost, gained = ranked[ranked < 0], ranked[ranked > 0].iloc[::-1]
    what = name_metric(results.metrics[0])
    blocks = [
        Gallery(
            f"Where {focus.name} {verb}s most",
            [show_prompt(results, focus, pairs, index, change) for index, change in chosen.head(NUM_SHOWN).items()],
            f"{len(chosen)} of {len(ranked)} prompts {verb} in {what}.",
        )
        for verb, chosen in (("lose", lost), ("gain", gained))
        if len(chosen)
    ]
    return Section(title, "", blocks)


def show_prompt(
    results: Results, focus: Variant, pairs: pd.DataFrame, prompt_index: Any, change: float
) -> tuple[str, list[tuple[str, bytes]]]:
    """A row of a gallery: the prompt with its mean difference, and the images of the seeds that differ most."""
    first = results.metrics[0]
    own = pairs[pairs["prompt_index"] == prompt_index]
    seeds = own.loc[own[f"{first}_difference"].abs().sort_values(ascending=False).index, "seed"].head(3)
    rows, extras = (table[table["prompt_index"] == prompt_index] for table in (results.rows, results.extras))
    images = []
    for seed in seeds:
        for name in (focus.baseline, focus.name):
            (row,), (extra,) = (
                table[(table["seed"] == seed) & (table["variant"] == name)].to_dict("records")
                for table in (rows, extras)
            )
            images.append((f"{name}, seed {seed}{say_verdict(row)}", extra["thumbnail"]))
    factor, digits = find_units(first)
    return f"{rows['prompt'].iloc[0]} ({factor * change:+.{digits}f})", images


def say_verdict(row: dict) -> str:
    """ ", right" or ", wrong (count)", nothing if the image was not checked."""
    if RIGHT not in row:
        return ""
    if row[RIGHT]:
        return ", right"
    return f", wrong ({row['fault']})" if row.get("fault") else ", wrong"


def cost(results: Results) -> Section:
    """Seconds per image, also as a multiple of the baseline's."""
    seconds = results.seconds_per_image()
    body = [
        [variant.name, f"{seconds[variant.name]:.4f}", f"{seconds[variant.name] / seconds[variant.baseline]:.3f}"]
        for variant in results.variants
        if seconds.get(variant.baseline)
    ]
    note = "Noise, denoising and decoding in batches, on this machine with whatever else was running."
    table = Table("Seconds per image", ["arm", "seconds", "relative to baseline"], body, note)
    return Section("Cost", "", [table])


def how_it_was_made(results: Results) -> Section:
    manifest = results.manifest
    identity, last = manifest["identity"], manifest["starts"][-1]
    groups = {variant.group: None for variant in results.variants}
    whose = ", each prompt with noises of its own" if identity.get("seeds", {}).get("noise_per_prompt") else ""
    facts = {
        "model": identity["model"],
        "prompts": f"{identity['prompts']['name']}, {identity['prompts']['num']}",
        "prompts dropped": str(len(manifest.get("dropped_prompts", []))),
        "seeds": f"{results.num_seeds} per prompt, from {results.rows['seed'].min()}{whose}",
        "images": f"{len(results.rows):,}",
        "sampling": "; ".join(map(str, groups)),
        "precision": "bfloat16" if identity["bf16"] else "the model's own",
        "judges": ", ".join(identity["judges"]) + f" ({identity['judge_weights']})" if identity["judges"] else "none",
        "device": last["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in last["versions"].items()),
        "commit": last["commit"] or "none",
        "started": manifest["starts"][0]["time"],
        "starts": str(len(manifest["starts"])),
    }
    return Section("How this was made", "", [Table("The run", ["", ""], [[*pair] for pair in facts.items()])])


SECTIONS: tuple[Callable[[Results], Section], ...] = (
    along_axis,
    categories,
    differences,
    faults,
    choosing_seeds,
    noises_and_real_images,
    losses_and_gains,
    cost,
    how_it_was_made,
)
