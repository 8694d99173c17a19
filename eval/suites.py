"""The suites: one for each table and figure of the paper. A suite says which variants are rendered and compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from eval.rendering import Variant
from eval.training import Training
from golden.errors import InvalidInput
from golden.judges import JUDGES
from golden.models import ModelSpec

DPO_UNET = "mhdang/dpo-sdxl-text2image-v1/unet/diffusion_pytorch_model.safetensors"
# Of a picture of the shapes world and its six scores, on one CPU core in bf16; measured in eval/LOG.md.
SECONDS_PER_STEP = 0.009
PAPER_SAMPLERS = ("ddim", "dpm", "ddpm", "euler_a", "pndm", "kdpm2_a", "heun")
PUBLISHED_FORM = ("--layout-rank", "0")  # without our own branch, which would say what an ablated one does not
NUM_PASSES = {"kdpm2_a": 2, "heun": 2}  # of the network in a step, where it is not one


@dataclass(frozen=True)
class Options:
    """What the command line leaves open (None) or decides about the variants of a suite."""

    arms: tuple[str, ...] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    num_epochs: int = 10
    targets: tuple[str, ...] = ()
    num_pairs: int = 0


@dataclass(frozen=True)
class Plan:
    """What a suite does on a model: its variants, the networks that it trains, and what it cannot do there."""

    variants: list[Variant]
    networks: Mapping[str, Training] = field(default_factory=dict)
    left_out: str = ""


@dataclass(frozen=True)
class Suite:
    """A table or figure of the paper: its title, where it stands there, and what is done on a model.

    `axis` is the setting along which its variants lie, for a curve; `seed_starts` where its ranges of seeds begin;
    `trains` whether it needs pairs; `measures` what is measured beyond pictures and scores: "singular" or "frechet".
    """

    name: str
    source: str
    title: str
    make_plan: Callable[[ModelSpec, Options], Plan]
    axis: str = ""
    num_seeds: int = 2
    seed_starts: tuple[int, ...] = (0,)
    trains: bool = False
    measures: str = ""


def standard_of(spec: ModelSpec, options: Options) -> Variant:
    """The standard variant, under the model's own settings or those of the options."""
    return Variant(
        "standard",
        "standard",
        options.num_inference_steps or spec.num_inference_steps,
        spec.guidance_scale if options.guidance_scale is None else options.guidance_scale,
        options.sampler or spec.sampler,
    )


def pair_under(standard: Variant, label: str, **settings: object) -> list[Variant]:
    """Standard and NPNet under some settings, the second against the first."""
    name = f"standard {label}"
    changed = replace(standard, name=name, baseline=name, **settings)  # type: ignore[arg-type]
    return [changed, replace(changed, name=f"npnet {label}", arm="npnet")]


def arms_of(*arms: str) -> Callable[[ModelSpec, Options], Plan]:
    """Variants that differ in the arm alone."""

    def make(spec: ModelSpec, options: Options) -> Plan:
        standard = standard_of(spec, options)
        chosen = dict.fromkeys(options.arms or arms)
        return Plan([replace(standard, name=arm, arm=arm) for arm in chosen])

    return make


def sweep(setting: str, values: Sequence, unit: str = "") -> Callable[[ModelSpec, Options], Plan]:
    """Standard and NPNet at every value of a setting."""

    def make(spec: ModelSpec, options: Options) -> Plan:
        standard = standard_of(spec, options)
        pairs = [pair_under(standard, f"{value} {unit}".strip(), **{setting: value}) for value in values]
        return Plan([variant for pair in pairs for variant in pair])

    return make


def trained(
    describe: Callable[[ModelSpec, Options], Mapping[str, Training]],
) -> Callable[[ModelSpec, Options], Plan]:
    """Standard, and NPNets that the run trains itself, each under its own name."""

    def make(spec: ModelSpec, options: Options) -> Plan:
        standard, networks = standard_of(spec, options), describe(spec, options)
        golden = [replace(standard, name=name, arm="npnet", npnet=name) for name in networks]
        return Plan([standard, *golden], networks)

    return make


# --- what differs from suite to suite ---------------------------------------------------------------------------------


def strengths(spec: ModelSpec, options: Options) -> Plan:
    standard = standard_of(spec, options)
    values = (0.5, 1.0, 1.5, 2.0)
    return Plan([standard, *(replace(standard, name=f"npnet x {v:g}", arm="npnet", strength=v) for v in values)])


def few_steps(spec: ModelSpec, options: Options) -> Plan:
    """A distilled model under its own settings. The shapes world has none, and goes with few steps undistilled."""
    if not spec.is_shapes:
        return arms_of("standard", "npnet")(spec, options)
    standard = replace(standard_of(spec, options), sampler="dpm")
    pairs = [pair_under(standard, f"{steps} steps", num_inference_steps=steps) for steps in (4, 8)]
    left_out = "The shapes world has no distilled model: its own at 4 and 8 steps of DPM-Solver stands in."
    return Plan([variant for pair in pairs for variant in pair], left_out=left_out)


def other_methods(spec: ModelSpec, options: Options) -> Plan:
    """With DPO's UNet and with the AYS schedule, with and without NPNet."""
    standard = standard_of(spec, options)
    settings: dict[str, dict] = {
        "own": {},
        "10 aligned steps": {"num_inference_steps": 10, "sampler": "dpm_ays"},
        "10 even steps": {"num_inference_steps": 10, "sampler": "dpm"},
    }
    if spec.is_shapes:
        left_out = f"DPO is left out: its weights ({DPO_UNET}) are of SDXL's UNet, and the shapes world has none."
    else:
        left_out, settings = "", settings | {"DPO": {"unet": DPO_UNET}}
    pairs = [pair_under(standard, label, **changes) for label, changes in settings.items()]
    return Plan([variant for pair in pairs for variant in pair], left_out=left_out)


def transfer(spec: ModelSpec, options: Options) -> Plan:
    """SDXL's NPNet on another model. The shapes world has one model: its NPNet under settings of a turbo model."""
    standard = standard_of(spec, options)
    if not spec.is_shapes:
        own = [standard, replace(standard, name="npnet", arm="npnet")]
        sdxl = Training(file="sdxl")
        return Plan([*own, replace(own[1], name="sdxl's npnet", npnet="sdxl's npnet")], {"sdxl's npnet": sdxl})
    turbo = {"num_inference_steps": 4, "guidance_scale": 3.5, "sampler": "dpm"}
    left_out = "The shapes world has one model: its NPNet under DreamShaper's settings stands in."
    return Plan([*pair_under(standard, "own"), *pair_under(standard, "turbo", **turbo)], left_out=left_out)


def controlnet(spec: ModelSpec, options: Options) -> Plan:
    if not spec.is_steered:
        raise InvalidInput(
            f"The suite 'controlnet' needs a ControlNet, and {spec.title or spec.name} has none: "
            "--model sdxl+diffusers/controlnet-canny-sdxl-1.0 --control PICTURE."
        )
    return arms_of("standard", "npnet")(spec, options)


def equal_cost(spec: ModelSpec, options: Options) -> Plan:
    """NPNet's time is less than a step; a step more for standard is the smallest that can be bought with it."""
    standard = standard_of(spec, options)
    more = replace(standard, name="standard, 1 step more", num_inference_steps=standard.num_inference_steps + 1)
    return Plan([standard, replace(standard, name="npnet", arm="npnet"), more])


def ablations(spec: ModelSpec, options: Options) -> dict[str, Training]:
    chosen = ("--filter", "improved" if spec.is_shapes else "HPSv2")
    whole = (*chosen, *PUBLISHED_FORM, *epochs(options.num_epochs))
    return {
        "npnet": Training(whole),
        "no singular values": Training((*whole, "--no-singular")),
        "no residual": Training((*whole, "--no-residual")),
        "no data selection": Training(("--filter", "all", *PUBLISHED_FORM, *epochs(options.num_epochs))),
    }


def selection_metrics(spec: ModelSpec, options: Options) -> dict[str, Training]:
    filters = ["all", *(["right", "improved"] if spec.is_shapes else []), *JUDGES, "vote"]
    return {f"by {name}": Training(("--filter", name, *epochs(options.num_epochs))) for name in filters}


def margins(spec: ModelSpec, options: Options) -> dict[str, Training]:
    """The paper's 0, 0.005, 0.01 and 0.02 of the cosine, of which the judge gives 100 times."""
    steps = epochs(options.num_epochs)
    return {f"m = {m}": Training(("--filter", "HPSv2", "--margin", str(m), *steps)) for m in (0, 0.5, 1, 2)}


def training_settings(spec: ModelSpec, options: Options) -> dict[str, Training]:
    """Epochs, batch sizes and, where the pairs have several kinds of target (as of several guidances), each of them."""
    most = options.num_epochs
    networks = {f"{n} epochs": Training(epochs(n)) for n in sorted({max(1, most // 4), max(1, most // 2), most})}
    networks |= {f"batches of {n}": Training(("--batch-size", str(n), *epochs(most))) for n in (16, 32, 64)}
    kinds = [target for target in options.targets if target != "source"]
    if len(kinds) > 1:
        networks |= {f"target {kind}": Training(("--targets", kind, *epochs(most))) for kind in kinds}
    return networks


def branch_weights(spec: ModelSpec, options: Options) -> dict[str, Training]:
    """One network, whose alpha and beta are scaled after training."""
    steps = (*PUBLISHED_FORM, *epochs(options.num_epochs))
    scales = {"as learnt": (1, 1), "alpha x 0": (0, 1), "alpha x 2": (2, 1), "beta x 0": (1, 0), "beta x 2": (1, 2)}
    return {name: Training(steps, alpha_scale=a, beta_scale=b) for name, (a, b) in scales.items()}


def numbers_of_pairs(spec: ModelSpec, options: Options) -> dict[str, Training]:
    total = options.num_pairs
    numbers = sorted({max(1, total // part) for part in (8, 4, 2, 1)})
    return {f"{n} pairs": Training(epochs(options.num_epochs), num_pairs=n) for n in numbers}


def fine_tuning(spec: ModelSpec, options: Options) -> dict[str, Training]:
    num = min(600, options.num_pairs)
    steps = epochs(options.num_epochs)
    return {
        "npnet": Training(file=spec.npnet or ""),
        f"fine-tuned on {num}": Training(steps, num_pairs=num, fine_tunes=True),
        f"trained on {num}": Training(steps, num_pairs=num),
    }


def text_embedding(spec: ModelSpec, options: Options) -> dict[str, Training]:
    steps = (*PUBLISHED_FORM, *epochs(options.num_epochs))
    return {"npnet": Training(steps), "no text": Training(("--no-text", *steps))}


def epochs(number: int) -> tuple[str, str]:
    return "--num-epochs", str(number)


# --- the list ---------------------------------------------------------------------------------------------------------

TABLE_2 = ("standard", "inversion", "repaint", "npnet")
CONTROLS = ("standard", "npnet", "random", "length", "npnet_other_prompt", "npnet_unit_std", "inversion")
PAIR = ("standard", "npnet")
TARGETS = ("standard", "inversion", "npnet")
RANGES = (0, 1024, 2048, 3072)

at_steps = sweep("num_inference_steps", (5, 10, 20, 30, 50), "steps")
at_guidance = sweep("guidance_scale", (1.5, 3.5, 5.5, 7.5))
with_samplers = sweep("sampler", PAPER_SAMPLERS)
noises = arms_of(*TARGETS, "random")

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("main", "Table 2, Figs. 3, 11, 17", "the main comparison", arms_of(*TABLE_2)),
        Suite("fine-tuning", "Table 3", "NPNet fine-tuned on 600 pairs", trained(fine_tuning), trains=True),
        Suite("ablations", "Table 4", "NPNet without one of its parts", trained(ablations), trains=True),
        Suite("other-methods", "Table 5", "together with DPO and AYS", other_methods),
        Suite("transfer", "Table 6", "SDXL's NPNet on another model", transfer),
        Suite("search", "in place of Table 7", "seeds chosen by judges", arms_of(*PAIR), num_seeds=8),
        Suite("selection", "Table 8", "which judge selects the pairs", trained(selection_metrics), trains=True),
        Suite("margin", "Table 9", "by how much a pair must be better", trained(margins), trains=True),
        Suite("samplers", "Table 10", "seven samplers and their time", with_samplers, "sampler"),
        Suite("training", "Table 11", "epochs, batches and targets", trained(training_settings), trains=True),
        Suite("guidance", "Table 11", "the guidance scale", at_guidance, "guidance_scale"),
        Suite("branch-weights", "Table 12", "alpha and beta", trained(branch_weights), trains=True),
        Suite("geneval", "Table 13", "by kind of prompt", arms_of(*PAIR)),
        Suite("text", "Table 14", "NPNet without the prompt", trained(text_embedding), trains=True),
        Suite("num-pairs", "Table 15", "the number of pairs", trained(numbers_of_pairs), trains=True),
        Suite("seeds", "Table 16", "ranges of seeds", arms_of(*PAIR), num_seeds=1, seed_starts=RANGES),
        Suite("few-steps", "few-step models", "4 and 8 steps", few_steps),
        Suite("steps", "Figs. 4, 13", "the number of steps", at_steps, "num_inference_steps"),
        Suite("re-denoised", "Fig. 7", "pictures from target noise", arms_of(*TARGETS)),
        Suite("singular", "Fig. 8", "singular vectors kept", noises, num_seeds=1, measures="singular"),
        Suite("frechet", "Fig. 10", "distance to real pictures", arms_of(*TARGETS), measures="frechet"),
        Suite("controlnet", "Fig. 14", "with a ControlNet", controlnet),
        Suite("controls", "not in the paper", "what else changes the noise as much", arms_of(*CONTROLS)),
        Suite("equal-cost", "not in the paper", "seeds and steps for NPNet's time", equal_cost, num_seeds=4),
        Suite("strength", "not in the paper", "part of NPNet's change, or more", strengths, "strength"),
    )
}


def find_suite(name: str) -> Suite:
    """A suite by name. Raises: InvalidInput listing the names."""
    if name not in SUITES:
        raise InvalidInput(f"Unknown suite {name!r}: choose one of {', '.join(SUITES)}.")
    return SUITES[name]


def expected_seconds(plan: Plan, num_prompts: int, num_seeds: int) -> float:
    """About how long a suite's pictures take on the shapes world, on one core in bf16; training is not counted."""
    passes = sum(variant.num_inference_steps * NUM_PASSES.get(variant.sampler, 1) for variant in plan.variants)
    return passes * num_prompts * num_seeds * SECONDS_PER_STEP
