"""What a report says of a difference in words; the app's short suite says the same."""

from eval.summary import Effect
from eval.tables import begin, format_difference, format_value, name_metric
from golden.statistics import MIN_CLUSTERS

COUNTING = (
    "Every image is compared with the baseline's from the same prompt and seed. Intervals and tests count prompts, "
    "not images; p values of several judges are corrected by Holm's method. A tie is not a win."
)


def say_effect(effect: Effect, num_clusters: int) -> str:
    """A gain in one metric, and whether it is significant; `num_clusters` is how many different prompts there are."""
    return (
        f"{begin(name_metric(effect.metric))}: {format_value(effect.metric, effect.mean)} of {effect.variant} "
        f"against {format_value(effect.metric, effect.baseline_mean)} of {effect.baseline}, a difference of "
        f"{format_difference(effect.metric, effect.difference)} over {effect.num_prompts} prompts. "
        f"{say_whether_settled(effect, num_clusters)}"
    )


def say_whether_settled(effect: Effect, num_clusters: int) -> str:
    """Whether an effect differs from zero, and if that is open, how many prompts would show it."""
    if num_clusters < MIN_CLUSTERS:
        return f"An interval takes at least {MIN_CLUSTERS} different prompts."
    if effect.difference.excludes_zero:
        return "The interval excludes zero."
    needed = ""
    if effect.prompts_needed:
        needed = f" Four of five studies of {effect.prompts_needed:,} prompts would detect an effect of this size."
    return f"The interval includes zero: these images do not settle which is better.{needed}"
