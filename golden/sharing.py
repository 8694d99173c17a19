"""Weights in a folder or in a repository on the Hugging Face Hub, in the Hub's own words.

    npnet.save_pretrained("my-npnet")                        # weights, config and a model card in a folder
    npnet.push_to_hub("me/my-npnet")                         # the same in a repository
    npnet = NPNet.from_pretrained("me/my-npnet", revision="v1")

NPNet and the judges have these methods. Files are fetched by golden/hub.py alone: at the pinned commit, or that of the
first download, and with their SHA-256 checked.
"""

from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelCard, ModelHubMixin, constants

from .cards import intervals_table, make_card, read_record
from .errors import GoldenError, InvalidInput, MissingWeights
from .files import write_bytes
from .hub import fetch_file, is_hub_id, reason_of, refuse_url

AnyShared = TypeVar("AnyShared", bound="Shared")

WEIGHTS = constants.SAFETENSORS_SINGLE_FILE
OWN_NAMES = (WEIGHTS, "npnet.safetensors")
"""What a folder may call its weights; the second is what a training writes."""
MEASURED = "measured"
"""Where a weight file may keep figures: JSON of name -> [value, low, high], with 95 % intervals."""
CLIENT_OPTIONS = ("token", "force_download", "local_files_only")


class Shared(ModelHubMixin, library_name="golden"):
    """`from_pretrained`, `save_pretrained` and `push_to_hub` of a network whose file says how it is built.

    A class defines the four methods below that raise NotImplementedError.
    """

    metadata: dict[str, str]
    """What the weight file says about itself."""

    def write_weights(self, path: Path) -> None:
        """Write the safetensors file, its config in the header."""
        raise NotImplementedError

    @classmethod
    def read_weights(cls: type[AnyShared], path: Path, **options: Any) -> AnyShared:
        """Read what `write_weights` wrote, or any other layout that is known."""
        raise NotImplementedError

    def config_json(self) -> str:
        """The config once more, for people and for the Hub, which count and show `config.json`."""
        raise NotImplementedError

    def card_parts(self, repo: str) -> dict[str, Any]:
        """The arguments of `make_card` that the network knows itself. `repo` is where it can be loaded from."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[AnyShared],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        sha256: str | None = None,
        filename: str | None = None,
        **options: Any,
    ) -> AnyShared:
        """Load from a folder that `save_pretrained` wrote, or from a repository `OWNER/REPOSITORY` on the Hub.

        Args:
            pretrained_model_name_or_path: the folder or repository.
            revision: a commit, branch or tag; by default the pinned one, else that of the first download.
            sha256: what the weight file's hash must be; by default the pinned one, else that of the first download.
            filename: the weight file, `model.safetensors` unless the repository calls it otherwise.
            options: `token`, `force_download` and `local_files_only` as the Hub's client takes them; all others as
                `load_npnet` or `load_judge` take them. The cache is the Hub's (`HF_HUB_CACHE`).

        Raises: MissingWeights, BadWeights or InvalidInput, each in one sentence. Only tensors are read: no file of the
            repository is run as code.
        """
        client = {name: options.pop(name) for name in CLIENT_OPTIONS if name in options}
        path = find_weights(str(pretrained_model_name_or_path), filename, revision, sha256, **client)
        return cls.read_weights(path, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.write_weights(save_directory / WEIGHTS)
        write_bytes(save_directory / constants.CONFIG_NAME, self.config_json().encode())

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # type: ignore[override]
        """Upload weights, config and a model card in one commit, and return its address.

        `options` are those of the Hub's mixin: `private`, `token`, `branch`, `create_pr`, `commit_message`, and
        `model_card_kwargs`, the arguments of `generate_model_card`.

        Raises: GoldenError in one sentence if the Hub refuses or cannot be reached.
        """
        card = {"repo": repo_id} | (options.pop("model_card_kwargs", None) or {})
        try:
            return str(super().push_to_hub(repo_id, model_card_kwargs=card, **options))
        except GoldenError:
            raise
        except Exception as error:  # the client raises dozens of kinds
            raise GoldenError(
                f"The weights could not be uploaded to {repo_id[:100]} ({reason_of(error)}): check the name and your "
                "network, and log in with `hf auth login`."
            ) from error

    def generate_model_card(
        self,
        repo: str = "OWNER/REPOSITORY",
        license: str | None = None,
        benchmark: str | Path | None = None,
    ) -> ModelCard:
        """A model card from what the weights record of their training.

        Args:
            repo: the repository that the example loads.
            license: an identifier of the Hub, such as "apache-2.0"; by default this project's for weights that it
                trained itself, else "unknown".
            benchmark: the folder of a finished `golden bench` run, whose first tables (figures with their intervals)
                the card then shows.

        Raises: InvalidInput for a folder without a report.
        """
        parts = self.card_parts(repo)
        measured = [intervals_table(read_record(self.metadata, MEASURED)), _read_report(benchmark)]
        return make_card(
            **parts | {"license": license or parts["license"], "measured": "\n\n".join(filter(None, measured))}
        )


def find_weights(
    name: str, filename: str | None = None, revision: str | None = None, sha256: str | None = None, **client: Any
) -> Path:
    """The weight file of a folder or of a repository on the Hub, from which it is downloaded if need be.

    Raises: InvalidInput for a URL or a file; MissingWeights if there is none; BadWeights if its hash is another one.
    """
    refuse_url(name)
    if Path(name).is_dir():
        names = (filename,) if filename else OWN_NAMES
        found = next((file for file in names if (Path(name) / file).is_file()), None)
        if found is None:
            raise MissingWeights(f"The folder {name} contains no {' or '.join(names)}.")
        return fetch_file(name, found, sha256=sha256)
    if Path(name).is_file():
        raise InvalidInput(f"{name[:100]!r} is a file: give its folder, or load it with load_npnet or load_judge.")
    if not is_hub_id(name):
        raise MissingWeights(
            f"There is no folder {name[:100]!r}: give one, or OWNER/REPOSITORY on the Hugging Face Hub."
        )
    return fetch_file(name, filename or WEIGHTS, revision, sha256, **client)


NUM_SHOWN = 2  # sections of a benchmark's report


def _read_report(benchmark: str | Path | None) -> str:
    """The first sections of a benchmark's report, "" for none."""
    if benchmark is None:
        return ""
    path = Path(benchmark) / "report.md"
    if not path.is_file():
        raise InvalidInput(f"{benchmark} is not the folder of a finished benchmark: it has no report.md.")
    sections = path.read_text().split("\n## ")[: NUM_SHOWN + 1]
    shown = "\n\n### ".join(section.strip() for section in sections[1:])
    return f"From `golden bench`, with 95 % intervals over prompts:\n\n### {shown}" if shown else ""
