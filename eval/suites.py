"""The suites: one for each table and figure of the paper. A suite plans which variants are rendered and compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from eval.networks import NetworkRecipe
from eval.rendering import SEEDS_APART, Variant
from golden.arms import WITH_NPNET, WITH_VERIFIER, arms_for
from golden.errors import InvalidInput
from golden.judges import ALL_JUDGES
from golden.models import MODELS, ModelSpec
from train.settings import Architecture, TrainingSettings

DPO_UNET = "mhdang/dpo-sdxl-text2image-v1/unet/diffusion_pytorch_model.safetensors"
# For an image of the shapes world and its six scores, on one CPU core in bf16; measured in eval/LOG.md.
SECONDS_PER_STEP = 0.009
PAPER_SAMPLERS = ("ddim", "dpm", "ddpm", "euler_a", "pndm", "kdpm2_a", "heun")
AS_PUBLISHED = Architecture(layout_rank=0)  # without our own branch, which would make up for an ablated one
NUM_PASSES = {"kdpm2_a": 2, "heun": 2, "flow_heun": 2}  # through the network in a step, if it is not one


@dataclass(frozen=True)
class SuiteSettings:
    """What the command line leaves open (None) or decides about the variants and networks of a suite.

    `npnet` replaces the model's own, `npnets` are names and files of further ones.
    """

    arms: tuple[str, ...] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    num_epochs: int = 10
    targets: tuple[str, ...] = ()
    num_pairs: int = 0
    npnet: str | None = None
    npnets: tuple[tuple[str, str], ...] = ()

    def training(self, **changes: object) -> TrainingSettings:
        """How a network of the suite is trained."""
        return TrainingSettings(**{"num_epochs": self.num_epochs, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True)
class SuitePlan:
    """What a suite does on a model: its variants, the networks that it needs, and what it cannot do there."""

    variants: list[Variant]
    networks: Mapping[str, NetworkRecipe] = field(default_factory=dict)
    left_out: str = ""


MakePlan = Callable[[ModelSpec, SuiteSettings], SuitePlan]


@dataclass(frozen=True)
class Suite:
    """A table or figure of the paper: its title, its place there, and its plan for a model.

    `axis` is the setting along which its variants lie, for a curve; `seed_starts` are the first seeds of its ranges;
    `trains` tells whether it needs pairs; `measures` what is measured beside images and scores: "singular" or
    "frechet". `every_set` is for suites that take all of a model's prompt sets, `at_samplings` for those that do
    everything under several samplings, of which the first is looked at closely.
    """

    name: str
    source: str
    title: str
    make_plan: MakePlan
    axis: str = ""
    num_seeds: int = 2
    seed_starts: tuple[int, ...] = (0,)
    trains: bool = False
    measures: str = ""
    every_set: bool = False
    at_samplings: bool = False

    def seeds_apart(self, seeds: Sequence[int]) -> int:
        """What lies between the seeds of neighbouring prompts. Within a range, prompts take its seeds in turn."""
        return len(seeds) // len(self.seed_starts) if len(self.seed_starts) > 1 else SEEDS_APART


def uses_shapes_checker(spec: ModelSpec) -> bool:
    """Whether this is the embedded model, for which some suites have a stand-in."""
    return spec.checker == "shapes"


def standard_of(spec: ModelSpec, settings: SuiteSettings) -> Variant:
    """The standard variant, under the model's own settings or those given."""
    own = spec.sampling
    return Variant(
        "standard",
        "standard",
        settings.num_inference_steps or own.num_inference_steps,
        own.guidance_scale if settings.guidance_scale is None else settings.guidance_scale,
        settings.sampler or own.sampler,
    )


def pair_under(standard: Variant, label: str, **changes: object) -> list[Variant]:
    """Standard and NPNet under changed settings, the second compared with the first."""
    name = f"standard {label}"
    changed = replace(standard, name=name, baseline=name, **changes)  # type: ignore[arg-type]
    return [changed, replace(changed, name=f"npnet {label}", arm="npnet")]


def arms_of(*arms: str) -> MakePlan:
    """Variants that differ in the arm alone."""

    def make(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
        standard = standard_of(spec, settings)
        chosen = dict.fromkeys(settings.arms or arms)
        if standard.name not in chosen:
            raise InvalidInput(f"Every arm is compared with standard: add it to --arms, got {', '.join(chosen)}.")
        return SuitePlan([replace(standard, name=arm, arm=arm) for arm in chosen])

    return make


def sweep(setting: str, values: Sequence, unit: str = "") -> MakePlan:
    """Standard and NPNet at every value of a setting."""

    def make(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
        standard = standard_of(spec, settings)
        pairs = [pair_under(standard, f"{value} {unit}".strip(), **{setting: value}) for value in values]
        return SuitePlan([variant for pair in pairs for variant in pair])

    return make


def trained(describe: Callable[[ModelSpec, SuiteSettings], Mapping[str, NetworkRecipe]]) -> MakePlan:
    """Standard, and NPNets that the run trains itself, each under its own name."""

    def make(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
        standard, networks = standard_of(spec, settings), describe(spec, settings)
        golden = [replace(standard, name=name, arm="npnet", npnet=name) for name in networks]
        return SuitePlan([standard, *golden], networks)

    return make


def dpm_of(spec: ModelSpec) -> str:
    """DPM-Solver under the name that the model's family has for it, or else the model's own sampler."""
    return next((name for name in ("dpm", "flow_dpm") if name in spec.family.samplers), spec.sampling.sampler)


# --- suites with plans of their own -----------------------------------------------------------------------------------


def strengths(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
    standard = standard_of(spec, settings)
    values = (0.5, 1.0, 1.5, 2.0)
    return SuitePlan([standard, *(replace(standard, name=f"npnet x {v:g}", arm="npnet", strength=v) for v in values)])


def with_samplers(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
    """Standard and NPNet with each of the paper's samplers; flows have others, and all of theirs."""
    known = [name for name in PAPER_SAMPLERS if name in spec.family.samplers]
    return sweep("sampler", known or spec.family.samplers)(spec, settings)


def few_steps(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
    """A distilled model under its own settings. The shapes world has none: few steps of its undistilled model."""
    if not uses_shapes_checker(spec):
        return arms_of("standard", "npnet")(spec, settings)
    standard = replace(standard_of(spec, settings), sampler=dpm_of(spec))
    pairs = [pair_under(standard, f"{steps} steps", num_inference_steps=steps) for steps in (4, 8)]
    left_out = "The shapes world has no distilled model: its own, with 4 and 8 steps of DPM-Solver, takes its place."
    return SuitePlan([variant for pair in pairs for variant in pair], left_out=left_out)


def other_methods(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
    """With DPO's UNet and with the AYS schedule, with and without NPNet."""
    standard = standard_of(spec, settings)
    changes: dict[str, dict] = {
        "own": {},
        "10 aligned steps": {"num_inference_steps": 10, "sampler": "dpm_ays"},
        "10 even steps": {"num_inference_steps": 10, "sampler": "dpm"},
    }
    usable = (standard.sampler, *spec.family.samplers)  # the aligned steps are for SDXL's noise levels
    changes = {label: change for label, change in changes.items() if change.get("sampler", usable[0]) in usable}
    if uses_shapes_checker(spec):
        left_out = f"DPO is left out: its weights ({DPO_UNET}) are for SDXL's UNet, and the shapes world has none."
    else:
        left_out, changes = "", changes | {"DPO": {"unet": DPO_UNET}}
    pairs = [pair_under(standard, label, **change) for label, change in changes.items()]
    return SuitePlan([variant for pair in pairs for variant in pair], left_out=left_out)


def transfer(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
    """SDXL's NPNet on another model. In the shapes world that of the first model on the flow model, as it is.

    The first model itself gets a turbo model's settings.
    """
    standard = standard_of(spec, settings)
    if spec.name == "shapes-flow":
        name = "npnet of shapes"
        networks = {name: NetworkRecipe(file=MODELS["shapes"].npnet or "")}
        return SuitePlan([standard, replace(standard, name=name, arm="npnet", npnet=name)], networks)
    if not uses_shapes_checker(spec):
        own = [standard, replace(standard, name="npnet", arm="npnet")]
        sdxl = NetworkRecipe(file="sdxl")
        return SuitePlan([*own, replace(own[1], name="sdxl's npnet", npnet="sdxl's npnet")], {"sdxl's npnet": sdxl})
    turbo = {"num_inference_steps": 4, "guidance_scale": 3.5, "sampler": dpm_of(spec)}
    left_out = "The shapes world has no turbo model: its NPNet under DreamShaper's settings takes that place."
    return SuitePlan([*pair_under(standard, "own"), *pair_under(standard, "turbo", **turbo)], left_out=left_out)


def controlnet(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
    if not spec.needs_control:
        raise InvalidInput(
            f"The suite 'controlnet' needs a ControlNet, and {spec.title or spec.name} has none: "
            "--model sdxl+diffusers/controlnet-canny-sdxl-1.0 --control IMAGE."
        )
    return arms_of("standard", "npnet")(spec, settings)


def equal_cost(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
    """NPNet takes less time than a step; one more step of standard is the least that its time could buy."""
    standard = standard_of(spec, settings)
    more = replace(standard, name="standard, 1 step more", num_inference_steps=standard.num_inference_steps + 1)
    return SuitePlan([standard, replace(standard, name="npnet", arm="npnet"), more])


def norms(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
    """The source noise at norms around its own, to choose a model's `best_norm` by."""
    standard = standard_of(spec, settings)
    scaled = [replace(standard, name=f"norm {norm:g}", arm="best_norm", best_norm=norm) for norm in NORMS]
    return SuitePlan([standard, *scaled])


def golden_noise(spec: ModelSpec, settings: SuiteSettings) -> SuitePlan:
    """Every way to better noise that the model has weights for, under every sampling."""
    available = arms_for(spec, has_npnet=bool(settings.npnet or spec.npnet), has_verifier=spec.has_verifier)
    reasons = {"inversion": "it generates without guidance"}
    reasons |= dict.fromkeys(WITH_NPNET, "there is no NPNet") | dict.fromkeys(WITH_VERIFIER, "there is no verifier")
    reasons = {arm: reasons[arm] for arm in GOLDEN_NOISE if arm not in available}
    if spec.best_norm == 1:
        reasons |= dict.fromkeys(("best_norm", "npnet_best_norm"), "it is 1")
    arms = settings.arms or tuple(arm for arm in GOLDEN_NOISE if arm not in reasons)
    if "standard" not in arms:
        raise InvalidInput(f"Every arm is compared with standard: add it to --arms, got {', '.join(arms)}.")
    left_out = {} if settings.arms else reasons
    variants = []
    for sampler, steps in list_samplings(spec, settings):
        label = f"{sampler} {steps}"
        own = standard_of(spec, replace(settings, sampler=sampler, num_inference_steps=steps))
        standard = replace(own, name=f"standard, {label}", baseline=f"standard, {label}")
        variants += [replace(standard, name=f"{arm}, {label}", arm=arm) for arm in arms]
        variants += [replace(standard, name=f"{name}, {label}", arm="npnet", npnet=name) for name, _ in settings.npnets]
    networks = {name: NetworkRecipe(file=file) for name, file in settings.npnets}
    sentence = f"Left out: {', '.join(f'{arm} ({reason})' for arm, reason in left_out.items())}." if left_out else ""
    return SuitePlan(variants, networks, sentence)


def list_samplings(spec: ModelSpec, settings: SuiteSettings) -> list[tuple[str, int]]:
    """Samplers and numbers of steps, the model's own first if it is among them; one alone if the settings name it.

    A model whose family cannot use a sampler is sampled by its own.
    """
    own = standard_of(spec, settings)
    if settings.sampler or settings.num_inference_steps:
        return [(own.sampler, own.num_inference_steps)]
    usable = [(sampler if sampler in spec.family.samplers else own.sampler, steps) for sampler, steps in SAMPLINGS]
    return sorted(usable, key=lambda sampling: sampling != (own.sampler, own.num_inference_steps))


def ablations(spec: ModelSpec, settings: SuiteSettings) -> dict[str, NetworkRecipe]:
    chosen = settings.training(filter="improved" if spec.checker else "HPSv2")
    return {
        "npnet": NetworkRecipe(chosen, AS_PUBLISHED),
        "no singular values": NetworkRecipe(chosen, replace(AS_PUBLISHED, singular=False)),
        "no residual": NetworkRecipe(chosen, replace(AS_PUBLISHED, residual=False)),
        "no data selection": NetworkRecipe(replace(chosen, filter="all"), AS_PUBLISHED),
    }


def selection_metrics(spec: ModelSpec, settings: SuiteSettings) -> dict[str, NetworkRecipe]:
    filters = ["all", *(["right", "improved"] if spec.checker else []), *ALL_JUDGES, "vote"]
    return {f"by {name}": NetworkRecipe(settings.training(filter=name)) for name in filters}


def margins(spec: ModelSpec, settings: SuiteSettings) -> dict[str, NetworkRecipe]:
    """The paper's 0, 0.005, 0.01 and 0.02 are in units of the cosine, of which the judge reports 100 times."""
    return {f"m = {m:g}": NetworkRecipe(settings.training(filter="HPSv2", margin=m)) for m in (0.0, 0.5, 1.0, 2.0)}


def training_settings(spec: ModelSpec, settings: SuiteSettings) -> dict[str, NetworkRecipe]:
    """Epochs, batch sizes and, if the pairs have several kinds of target (such as several guidances), each of them."""
    most = settings.num_epochs
    epochs = sorted({max(1, most // 4), max(1, most // 2), most})
    networks = {f"{n} epochs": NetworkRecipe(settings.training(num_epochs=n)) for n in epochs}
    networks |= {f"batches of {n}": NetworkRecipe(settings.training(batch_size=n)) for n in (16, 32, 64)}
    kinds = [target for target in settings.targets if target != "source"]
    if len(kinds) > 1:
        networks |= {f"target {kind}": NetworkRecipe(settings.training(targets=(kind,))) for kind in kinds}
    return networks


def branch_weights(spec: ModelSpec, settings: SuiteSettings) -> dict[str, NetworkRecipe]:
    """One network, whose alpha and beta are scaled after training."""
    network = NetworkRecipe(settings.training(), AS_PUBLISHED)
    scales = {"as learnt": (1, 1), "alpha x 0": (0, 1), "alpha x 2": (2, 1), "beta x 0": (1, 0), "beta x 2": (1, 2)}
    return {name: replace(network, alpha_scale=a, beta_scale=b) for name, (a, b) in scales.items()}


def numbers_of_pairs(spec: ModelSpec, settings: SuiteSettings) -> dict[str, NetworkRecipe]:
    total = settings.num_pairs
    numbers = sorted({max(1, total // part) for part in (8, 4, 2, 1)})
    return {f"{n} pairs": NetworkRecipe(settings.training(), num_pairs=n) for n in numbers}


def fine_tuning(spec: ModelSpec, settings: SuiteSettings) -> dict[str, NetworkRecipe]:
    num = min(600, settings.num_pairs)
    training = settings.training()
    return {
        "npnet": NetworkRecipe(file=spec.npnet or ""),
        f"fine-tuned on {num}": NetworkRecipe(training, num_pairs=num, fine_tunes=True),
        f"trained on {num}": NetworkRecipe(training, num_pairs=num),
    }


def text_embedding(spec: ModelSpec, settings: SuiteSettings) -> dict[str, NetworkRecipe]:
    training = settings.training()
    return {
        "npnet": NetworkRecipe(training, AS_PUBLISHED),
        "no text": NetworkRecipe(training, replace(AS_PUBLISHED, text=False)),
    }


# --- the list ---------------------------------------------------------------------------------------------------------

TABLE_2 = ("standard", "inversion", "repaint", "npnet")
CONTROLS = ("standard", "npnet", "random", "norm", "mismatched", "unit_std", "inversion")
PAIR = ("standard", "npnet")
TARGETS = ("standard", "inversion", "npnet")
NORMS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1)
GOLDEN_NOISE = (
    *("standard", "best_norm", "inversion", "random", "mismatched", "norm", "npnet", "npnet_best_norm"),
    *("ascent", "select_4", "select_16", "select_64"),
)
SAMPLINGS = (("dpm", 4), ("dpm", 8), ("ddim", 20), ("ddim", 50))
RANGES = (0, 1024, 2048, 3072)

at_steps = sweep("num_inference_steps", (5, 10, 20, 30, 50), "steps")
at_guidance = sweep("guidance_scale", (1.5, 3.5, 5.5, 7.5))
noises = arms_of(*TARGETS, "random")

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("main", "Table 2, Figs. 3, 11, 17", "the main comparison", arms_of(*TABLE_2)),
        Suite("fine-tuning", "Table 3", "NPNet fine-tuned on 600 pairs", trained(fine_tuning), trains=True),
        Suite("ablations", "Table 4", "NPNet without one of its parts", trained(ablations), trains=True),
        Suite("other-methods", "Table 5", "combined with DPO and AYS", other_methods),
        Suite("transfer", "Table 6", "SDXL's NPNet on another model", transfer),
        Suite("search", "in place of Table 7", "seeds chosen by judges", arms_of(*PAIR), num_seeds=8),
        Suite("selection", "Table 8", "which judge selects the pairs", trained(selection_metrics), trains=True),
        Suite("margin", "Table 9", "how much better a pair must be", trained(margins), trains=True),
        Suite("samplers", "Table 10", "seven samplers and their time", with_samplers, "sampler"),
        Suite("training", "Table 11", "epochs, batches and targets", trained(training_settings), trains=True),
        Suite("guidance", "Table 11", "the guidance scale", at_guidance, "guidance_scale"),
        Suite("branch-weights", "Table 12", "alpha and beta", trained(branch_weights), trains=True),
        Suite("geneval", "Table 13", "by category of prompt", arms_of(*PAIR)),
        Suite("text", "Table 14", "NPNet without the prompt", trained(text_embedding), trains=True),
        Suite("num-pairs", "Table 15", "the number of pairs", trained(numbers_of_pairs), trains=True),
        Suite("seeds", "Table 16", "ranges of seeds", arms_of(*PAIR), num_seeds=1, seed_starts=RANGES),
        Suite("few-steps", "few-step models", "4 and 8 steps", few_steps),
        Suite("steps", "Figs. 4, 13", "the number of steps", at_steps, "num_inference_steps"),
        Suite("re-denoised", "Fig. 7", "images from target noise", arms_of(*TARGETS)),
        Suite("singular", "Fig. 8", "similarity of singular vectors", noises, num_seeds=1, measures="singular"),
        Suite("frechet", "Fig. 10", "distance to real images", arms_of(*TARGETS), measures="frechet"),
        Suite("controlnet", "Fig. 14", "with a ControlNet", controlnet),
        Suite("controls", "not in the paper", "other changes to the noise of the same size", arms_of(*CONTROLS)),
        Suite("equal-cost", "not in the paper", "seeds and steps for NPNet's time", equal_cost, num_seeds=4),
        Suite("norms", "not in the paper", "shorter and longer noise", norms, "best_norm"),
        Suite(
            "golden-noise",
            "not in the paper",
            "every way to better noise, and its price",
            golden_noise,
            num_seeds=4,
            every_set=True,
            at_samplings=True,
        ),
        Suite("strength", "not in the paper", "less or more of NPNet's change", strengths, "strength"),
    )
}


def find_suite(name: str) -> Suite:
    """A suite by name. Raises: InvalidInput listing the names."""
    if name not in SUITES:
        raise InvalidInput(f"Unknown suite {name!r}: choose one of {', '.join(SUITES)}.")
    return SUITES[name]


def expected_seconds(plan: SuitePlan, num_prompts: int, num_seeds: int) -> float:
    """About how long a suite's images take in the shapes world, on one core in bf16; without training."""
    passes = sum(variant.num_inference_steps * NUM_PASSES.get(variant.sampler, 1) for variant in plan.variants)
    return passes * num_prompts * num_seeds * SECONDS_PER_STEP
