"""Judges on the Hugging Face Hub: what their `from_pretrained` and `push_to_hub` read and write, and their card."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cards import UNKNOWN_LICENSE, last_name
from ..sharing import Shared

if TYPE_CHECKING:
    from .base import Judge

TAGS = ["golden-noise", "image-quality", "preference-model", "text-to-image"]
OWN_RECIPES = "train/shapes/"
"""How the record `trained_by` of the embedded judges begins."""


class SharedJudge(Shared):
    """The methods of judges that read and write repositories. `Judge.from_pretrained` finds the class by the file."""

    def write_weights(self: "Judge", path: Path) -> None:  # type: ignore[misc]
        from .loading import save_judge

        save_judge(self, path, notes=self.metadata)

    @classmethod
    def read_weights(cls, path: Path, **options: Any) -> "Judge":  # type: ignore[override]
        from .loading import judge_in, load
        from .registry import find_judge

        known: Any = cls
        return load(known if "name" in vars(cls) else find_judge(judge_in(path)), path, **options)

    def config_json(self: "Judge") -> str:  # type: ignore[misc]
        return json.dumps({"judge": self.name, **self.config}, indent=2)

    def card_parts(self: "Judge", repo: str) -> dict[str, Any]:  # type: ignore[misc]
        embedded = self.metadata.get("trained_by", "").startswith(OWN_RECIPES)
        about = (
            "It was trained on images of golden's embedded world of shapes alone: its scores cannot be compared with "
            "those of the published model of this name."
        )
        return {
            "title": f"{self.name}{' for shapes' if embedded else ''}",
            "summary": f"A judge of images: a higher score is a better image. {about if embedded else ''}".strip(),
            "usage": (
                "from golden.judges import Judge\n\n"
                f'judge = Judge.from_pretrained("{repo}")\nscores = judge.score(images, prompts)'
            ),
            "license": "apache-2.0" if embedded else UNKNOWN_LICENSE,
            "tables": {
                "Judge": {
                    "score": self.unit,
                    "reads": self.reads,
                    "parameters": f"{sum(weight.numel() for weight in self.parameters()) / 1e6:.2f} M",
                },
                "Training": {name.replace("_", " "): last_name(value) for name, value in self.metadata.items()},
            },
            "metadata": {"tags": TAGS},
        }
