"""Published NPNets by name: in which repositories they are, how their files are recognised, what they fit."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

from ..errors import MissingWeights
from ..hub import cached_folder, check_file, fetch_file, is_hub_id, list_files, reason_of, refuse_url
from ..sharing import find_weights

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class PublishedNPNet:
    """Where the weights of a published NPNet are, and what pipelines it fits.

    `repos` are asked in their order for a weight file whose name holds one of `words` and none of `other_words`, in
    any case: the repositories name their files each in their own way. Revisions and hashes are those of hub.PINS, or of
    the first download. `embedding_dim` and `latent_size` are the prompt embedding's width and the latents' height and
    width.
    """

    words: tuple[str, ...]
    other_words: tuple[str, ...] = ()
    channels: int = 4
    embedding_dim: int = 2048
    latent_size: int = 128
    repos: tuple[str, ...] = ("asagi4/NPNet", "LucipherDev/Golden-Noise-NPNets", "Klayand/GoldenNoiseModel")

    def pick(self, files: Iterable[str]) -> str | None:
        """The weight file of this NPNet among a repository's, safetensors before others, or None."""
        fitting = [
            file
            for file in files
            if file.endswith(WEIGHT_SUFFIXES)
            and any(word in file.lower() for word in self.words)
            and not any(word in file.lower() for word in self.other_words)
        ]
        return min(fitting, key=lambda file: (not file.endswith(".safetensors"), len(file), file), default=None)


_SDXL, _DREAMSHAPER, _HUNYUAN = ("sdxl", "sd_xl", "sd-xl"), ("dreamshaper",), ("hunyuan", "dit")

NPNETS: dict[str, PublishedNPNet] = {
    "sdxl": PublishedNPNet(_SDXL, (*_DREAMSHAPER, *_HUNYUAN)),
    "dreamshaper": PublishedNPNet(_DREAMSHAPER),
    "hunyuan-dit": PublishedNPNet(_HUNYUAN, (*_DREAMSHAPER, *_SDXL), embedding_dim=1024),
}


def find_npnet(name: str | Path) -> Path:
    """The weight file of a name of NPNETS, of a folder, of `OWNER/REPOSITORY` on the Hub or, as it is, of a path.

    What is on the Hub is downloaded if need be.

    Raises: InvalidInput for a URL; MissingWeights if the file is neither on this machine nor can be downloaded;
    BadWeights if it is not the file that was expected.
    """
    refuse_url(str(name))
    if Path(name).is_file():
        return Path(name)
    published = NPNETS.get(str(name))
    if published is None:
        if Path(name).suffix in WEIGHT_SUFFIXES:
            return Path(name)  # reading it will say that it is not there
        if str(name) and (Path(name).is_dir() or is_hub_id(str(name))):
            return find_weights(str(name))
        raise MissingWeights(
            f"No NPNet {str(name)[:80]!r}: give a weight file, its folder, OWNER/REPOSITORY on the Hugging Face Hub, "
            f"or a published one: {', '.join(NPNETS)}."
        )
    return _find_cached(published) or _fetch(str(name), published)


def _find_cached(published: PublishedNPNet) -> Path | None:
    """The file if the cache on this machine has it, which needs no network."""
    for repo in published.repos:
        folder = cached_folder(repo)
        here = [path for path in folder.rglob("*") if path.is_file()] if folder else []
        kept = published.pick(path.relative_to(folder).as_posix() for path in here) if folder else None
        if folder and kept:
            check_file(folder / kept, repo, kept)
            return folder / kept
    return None


def _fetch(name: str, published: PublishedNPNet) -> Path:
    reason = "no repository has a file of that name"
    for repo in published.repos:
        try:
            file = published.pick(list_files(repo))
            if file:
                return fetch_file(repo, file)
        except MissingWeights as error:
            cause = error.__cause__
            reason = reason_of(cause if isinstance(cause, Exception) else error)
            if not isinstance(cause, HfHubHTTPError):  # no answer at all: the next would have none, either
                break
    raise MissingWeights(
        f"The NPNet {name!r} is not on this machine and could not be downloaded ({reason}): download it from "
        f"https://huggingface.co/{published.repos[0]} and give the path of the file, or run once with network access."
    )
