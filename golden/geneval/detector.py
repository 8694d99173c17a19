"""The models behind the GenEval checker: OWLv2 finds objects, CLIP names what it found.

Of the detectors in transformers, OWLv2 was chosen: code and weights are Apache-2.0 and it is maintained there. It takes
any noun, so that GenEval 2's are no different from COCO's; and each noun is a question of its own. Grounding DINO, as
free and as open, reads all nouns in one sentence, so that a score depends on what else is asked. Mask2Former, GenEval's
own detector, knows COCO's 80 classes alone, and the Hub marks the licence of its weights as "other".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import CLIPImageProcessor, CLIPModel, Owlv2ForObjectDetection, Owlv2ImageProcessor

from ..errors import BadWeights
from ..hub import fetch_file
from ..judges.inputs import load_tokenizer
from .questions import with_article
from .verdicts import UNCLEAR, Box

DETECTOR = "google/owlv2-base-patch16-ensemble"
CLASSIFIER = "openai/clip-vit-large-patch14"
"""GenEval's own for colours."""
FILES = ("config.json", "model.safetensors")
_PHRASES = ("a photo of {}", "a close-up of {}")
_MIN_SIDE = 4  # pixels of a crop that is worth naming


def load_part(cls: Any, source: str | Path, device: str) -> Any:
    """A model of transformers from a local folder or a repository of the Hub: of that, only config and weights.

    Raises: MissingWeights if it is neither on this machine nor can be downloaded; BadWeights if it cannot be read.
    """
    paths = [fetch_file(str(source), file) for file in FILES]
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    try:
        model, info = cls.from_pretrained(paths[0].parent, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BadWeights(f"{source} cannot be read as {cls.__name__}: {reason}") from error
    if missing := sorted(info["missing_keys"]):  # transformers draws them at random
        raise BadWeights(f"{source} lacks {len(missing)} weights of {cls.__name__}, such as {missing[0]}.")
    return model.to(device).eval()


class Detector:
    """Finds objects by their nouns. `source` is a folder or a repository of OWLv2's layout."""

    def __init__(self, source: str | Path = DETECTOR, device: str = "cpu") -> None:
        self.model = load_part(Owlv2ForObjectDetection, source, device)
        side = self.model.config.vision_config.image_size
        self.processor = Owlv2ImageProcessor(size={"height": side, "width": side})
        self.tokenize = load_tokenizer("openai", self.model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def find(self, image: Image.Image, nouns: Sequence[str]) -> list[Box]:
        """Boxes in pixels, each of the noun that fits it best, with scores of at least UNCLEAR."""
        image = image.convert("RGB")
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        tokens = self.tokenize([f"a photo of {with_article(noun)}" for noun in nouns])
        device = self.model.device
        outputs = self.model(
            input_ids=tokens.ids.to(device), attention_mask=tokens.mask.to(device), pixel_values=pixels.to(device)
        )
        scores, labels = outputs.logits[0].sigmoid().max(-1)
        # The image was padded to a square at its right and bottom; what lies in the padding is no object.
        corners = _to_corners(outputs.pred_boxes[0]) * max(image.size)
        corners = torch.minimum(corners.clamp(min=0), torch.tensor([*image.size, *image.size], device=device))
        rows = zip(scores.tolist(), labels.tolist(), corners.tolist(), strict=True)
        return [
            Box(nouns[label], score, *box)
            for score, label, box in rows
            if score >= UNCLEAR and box[2] - box[0] >= 1 and box[3] - box[1] >= 1
        ]


def _to_corners(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) centre and sides to left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


class Classifier:
    """Says which of several words describes an object best. `source` is a folder or a repository of CLIP's layout."""

    def __init__(self, source: str | Path = CLASSIFIER, device: str = "cpu") -> None:
        self.model = load_part(CLIPModel, source, device)
        side = self.model.config.vision_config.image_size
        self.processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        self.tokenize = load_tokenizer("openai", self.model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def name(self, image: Image.Image, boxes: Sequence[Box], noun: str, words: Sequence[str]) -> list[str]:
        """For each box the best of `words`, of which "" stands for none of them.

        Source: GenEval, which compares a crop with the mean embedding of a few phrases for each colour.
        """
        crops = [_crop(image, box) for box in boxes]
        if not crops:
            return []
        device = self.model.device
        pixels = self.processor(images=crops, return_tensors="pt")["pixel_values"].to(device)
        seen = _unit(self.model.get_image_features(pixel_values=pixels).pooler_output)
        phrases = [each.format(with_article(f"{word} {noun}".strip())) for word in words for each in _PHRASES]
        tokens = self.tokenize(phrases)
        said = self.model.get_text_features(input_ids=tokens.ids.to(device), attention_mask=tokens.mask.to(device))
        said = _unit(_unit(said.pooler_output).view(len(words), len(_PHRASES), -1).mean(1))
        return [words[index] for index in (seen @ said.T).argmax(-1).tolist()]


def _crop(image: Image.Image, box: Box) -> Image.Image:
    """The object's part of the image, at least a few pixels wide and high."""
    left, top = max(0, int(box.left)), max(0, int(box.top))
    right, bottom = max(left + _MIN_SIDE, round(box.right)), max(top + _MIN_SIDE, round(box.bottom))
    return image.convert("RGB").crop((left, top, right, bottom))


def _unit(embeds: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeds.float(), dim=-1)
