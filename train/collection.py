"""A collection from its settings to a full folder: what is checked first, what is recorded, who makes which shard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from golden.checkers import Checker, find_checker
from golden.checks import check_name
from golden.errors import InvalidInput
from golden.files import read_prompt_lines, sha256
from golden.judges import ALL_JUDGES, embedded_path, find_judge
from golden.judges.loading import weight_paths
from golden.model import with_verifier
from golden.models import ModelSpec, find_model
from golden.noise import SOLVERS
from golden.npnet import find_npnet
from golden.provenance import describe_run, hash_model
from train.claims import Claims, refuse_object_store
from train.filters import default_filter, find_filter
from train.make_shard import Collection, collect_shard, load_collection_judges, load_collection_model
from train.pairs import Shard, finished_shards, read_manifest, write_manifest, write_shard
from train.settings import CollectionSettings, check_positive
from train.targets import check_targets, default_target, needs_verifier


def resolve_settings(settings: CollectionSettings) -> CollectionSettings:
    """The settings with the model's own targets and the names of judges and filter in place of their defaults.

    Raises: InvalidInput for what cannot be collected, before anything is loaded.
    """
    check_positive(shard_size=settings.shard_size, num_threads=settings.num_threads)
    spec = with_verifier(find_model(settings.model), settings.verifier)
    if spec.needs_control:
        raise InvalidInput(f"Pairs are made from prompts alone, but {spec.name!r} also needs a control image.")
    judges = ALL_JUDGES if settings.judges == ("all",) else settings.judges
    for name in judges:
        judge = find_judge(name)
        if settings.judge_weights == "embedded":
            weight_paths(judge, "embedded")
    targets = settings.targets or (default_target(spec),)
    check_targets(spec, targets)
    if len(set(targets)) < len(targets):
        raise InvalidInput(f"Each target may be given once, got {' '.join(targets)}.")
    if settings.redenoise_solver is not None:
        check_name("solver", settings.redenoise_solver, SOLVERS)
    figures = [*judges, *(["score"] if spec.checker else [])] if settings.judged else []
    if settings.judged and not figures:
        raise InvalidInput(f"Nothing can judge images of {settings.model!r}: choose --judges, or --no-judged.")
    columns = [f"target_{name}" for name in figures]
    filter_name = settings.filter or default_filter(columns)
    if filter_name:
        find_filter(filter_name, columns)
    return replace(settings, judges=judges, targets=targets, filter=filter_name)


def read_prompts(path: Path | None, checker: Checker | None = None) -> list[str] | None:
    """One prompt per line, blank lines left out; None without a file, for endless prompts drawn by the checker.

    Raises: InvalidInput for a file that cannot be read, has no prompts or is not UTF-8, and for the first line that the
    checker cannot check, by its number.
    """
    if path is None:
        return None
    prompts = []
    for number, line in read_prompt_lines(path).items():
        prompts.append(line.strip())
        try:
            if checker:
                checker.validate_prompt(prompts[-1])
        except InvalidInput as error:
            raise InvalidInput(f"{path}, line {number}: {error}") from None
    return prompts


def describe_sources(settings: CollectionSettings, prompts: Path | None) -> dict:
    """The files that decide a data set beside its settings, by their hashes; a model of the hub by its revision."""
    spec = with_verifier(find_model(settings.model), settings.verifier)
    uses_npnet = any(target.startswith("npnet") for target in settings.targets)
    uses_verifier = any(map(needs_verifier, settings.targets))
    npnet = settings.npnet or spec.npnet
    embedded = settings.judges if settings.judge_weights == "embedded" else ()
    return {
        "model": hash_model(spec),
        "npnet": sha256(find_npnet(npnet)) if uses_npnet and npnet else None,
        "verifier": sha256(Path(spec.verifier)) if uses_verifier and spec.verifier else None,
        "reward": asdict(spec.reward) if uses_verifier else None,
        "prompts": sha256(prompts) if prompts else None,
        "judges": {name: sha256(embedded_path(find_judge(name))) for name in embedded},
    }


def open_collection(
    folder: Path, settings: CollectionSettings, prompts: Path | None, num_pairs: int, device: str
) -> Collection:
    """Check everything, and write the manifest or compare it with the one of a collection that goes on.

    Raises: InvalidInput for what cannot be collected, or not into this folder.
    """
    check_positive(num_pairs=num_pairs)
    given, settings = settings, resolve_settings(settings)
    spec = find_model(settings.model)
    checker = find_checker(spec.checker)
    texts = read_prompts(prompts, checker if settings.judged else None)
    if texts is None and checker is None:
        raise InvalidInput(f"The model {settings.model!r} has no prompts of its own: give a file with --prompts.")
    refuse_object_store(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recorded = asdict(settings)
    if given.filter is None and _has_old_default(folder):
        settings = replace(settings, filter=_old_default_filter(settings, spec))
        recorded["filter"] = None
    write_manifest(
        folder, {"settings": recorded, "sources": describe_sources(settings, prompts), **describe_run(device)}
    )
    return Collection(folder, settings, texts, -(-num_pairs // settings.shard_size), device)


def _has_old_default(folder: Path) -> bool:
    """Whether a folder is of a time when manifests did not name the default filter, which then was another."""
    return (folder / "manifest.json").is_file() and read_manifest(folder)["settings"].get("filter") is None


def _old_default_filter(settings: CollectionSettings, spec: ModelSpec) -> str | None:
    return "improved" if settings.judged and spec.checker else settings.filter


def collect_here(collection: Collection, on_shard: Callable[[Shard], None]) -> None:
    """Make the shards that are missing or damaged, alongside any number of processes that do the same.

    When it returns all shards exist: it waits for those that others are making, and makes what they leave.
    """
    settings = collection.settings
    model = load_collection_model(settings, collection.device)
    judges = load_collection_judges(settings, collection.device)
    with Claims(collection.folder) as claims:
        for wait in (False, True):
            for index in claims.take_missing(claims.busy if wait else range(collection.num_shards), wait=wait):
                shard = collect_shard(model, settings, index, collection.prompts, judges)
                write_shard(collection.folder, index, shard)
                claims.release(index)
                on_shard(shard)


@contextmanager
def show_progress(collection: Collection, *, hidden: bool = False) -> Iterator[Callable[[Shard], None]]:
    """A bar over the sources of all workers, with rate and time left, and the share kept of this worker's own.

    Yields the function to call with each finished shard. The bar closes with the block, so that an error gets a line of
    its own.
    """
    size = collection.settings.shard_size

    def num_finished() -> int:
        return size * sum(index < collection.num_shards for index in finished_shards(collection.folder))

    kept: list[bool] = []
    total = collection.num_shards * size
    with tqdm(total=total, initial=num_finished(), unit=" sources", mininterval=1, disable=hidden) as bar:

        def on_shard(shard: Shard) -> None:
            bar.update(num_finished() - bar.n)
            kept.extend(shard.rows.get("kept", ()))
            if kept:
                bar.set_postfix(kept=f"{sum(kept) / len(kept):.1%}")

        yield on_shard
