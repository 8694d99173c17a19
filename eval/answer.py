"""A run's answer in figures: how many images of each arm are right, and by how much that differs from standard.

`write_report` leaves it in the run's folder as answer.json. A copy beside an embedded model is what the app says of it:

    golden bench --suite golden-noise --num-seeds 1 --bf16 --judges none --sampler ddim --num-inference-steps 20 \
        --arms standard best_norm random mismatched npnet npnet_best_norm
    cp runs/golden-noise/answer.json assets/shapes

Under several samplings it is that of the first.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.results import Results
from eval.summary import RIGHT, mean_of
from golden.files import write_bytes

FILE = "answer.json"


def describe_answer(results: Results) -> dict[str, Any] | None:
    """By arm the share of right images and its difference to standard with a 95 % interval; None if none was checked.

    Beside them what they hold for: model, prompts, seeds, sampling, hashes of the weights, time and commit. Only arms
    under standard's own settings and on all of its prompts are listed.
    """
    by_name = {variant.name: variant for variant in results.variants}
    standard = next((v for v in results.variants if v.arm == "standard" and v.name == v.baseline), None)
    if RIGHT not in results.metrics or standard is None:
        return None
    identity, starts = results.manifest.get("identity", {}), results.manifest.get("starts") or [{}]
    sampled = standard.name.removeprefix("standard")  # ", ddim 20" in a suite of several samplings
    arms: dict[str, dict[str, Any]] = {"standard": {"right": mean_of(results.rows, standard.name, RIGHT).value}}
    for effect in results.effects:
        variant = by_name[effect.variant]
        if (
            variant.num_prompts is None
            and effect.metric == RIGHT
            and effect.baseline == standard.name
            and variant.sampling == standard.sampling
        ):
            ends = [effect.difference.value, effect.difference.low, effect.difference.high]
            arms[variant.name.removesuffix(sampled)] = {"right": effect.mean, "difference": ends}
    return {
        "model": results.model,
        "prompts": results.prompts,
        "num_prompts": int(results.rows["prompt_index"].nunique()),
        "num_seeds": results.num_seeds,
        **({"noise_per_prompt": True} if identity.get("seeds", {}).get("noise_per_prompt") else {}),
        "num_inference_steps": standard.num_inference_steps,
        "guidance_scale": standard.guidance_scale,
        "sampler": standard.sampler,
        "npnet": identity.get("npnet"),
        "weights": identity.get("weights"),
        "time": starts[-1].get("time"),
        "commit": starts[-1].get("commit"),
        "arms": arms,
    }


def write_answer(finished: Sequence[Results], folder: Path) -> None:
    """Write answer.json, if there is an answer: that of the first of several prompt sets, with the `others` in it."""
    answers = [answer for results in finished if (answer := describe_answer(results))]
    if answers:
        answer = answers[0] | ({"others": answers[1:]} if answers[1:] else {})
        write_bytes(folder / FILE, (json.dumps(answer, indent=2, ensure_ascii=False) + "\n").encode())
