"""The judges' reference outputs: `python ask_originals.py OUT`, in the environment that compare_judges.py makes.

Each model is built by its package's own classes, small, with rebuilt weights; images, token ids and configs are those
of tests/reference. Imports nothing of golden.
"""

import json
import sys
import tempfile
from pathlib import Path

import oracle
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

STORED = Path(__file__).resolve().parents[1] / "reference" / "judges"
IMAGES = [str(STORED / f"imagereward_small_{index}.png") for index in range(3)]
oracle.NUM_LAYERS = 3


def stored(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    path = STORED / f"{name}_small.safetensors"
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata()


def pixel_figures(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixels_corner": pixels[..., :4, :4].contiguous(), "pixels_mean": pixels.mean((1, 2, 3))}


def hpsv2(work: Path) -> tuple[dict[str, torch.Tensor], dict[str, str], None]:
    _, meta = stored("hpsv2")
    _, pixels, tokens, scores = oracle.hpsv2(work, IMAGES, json.loads(meta["prompts"]))
    middle = pixels[..., 110:114, 110:114].contiguous()
    cosine = torch.tensor(scores) / 100
    return {"tokens": tokens, "cosine": cosine, "pixels_middle": middle} | pixel_figures(pixels), meta, None


def image_reward(work: Path) -> tuple[dict[str, torch.Tensor], dict[str, str], torch.nn.Module]:
    tensors, meta = stored("imagereward")
    (work / "wordpiece.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]) + "\n")
    model, pixels, _, _ = oracle.image_reward(work, IMAGES, ["a"] * len(IMAGES))
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    rewards = model.score_gard(ids, mask, pixels).squeeze(-1)
    return {"input_ids": ids, "attention_mask": mask, "rewards": rewards} | pixel_figures(pixels), meta, model


def mps(work: Path) -> tuple[dict[str, torch.Tensor], dict[str, str], torch.nn.Module]:
    from transformers import CLIPConfig

    tensors, meta = stored("mps")
    oracle.clip_config = lambda: CLIPConfig(**json.loads(meta["config"]))
    model = oracle.build_mps()
    generator = torch.Generator().manual_seed(int(meta["pixel_seed"]))
    pixels = torch.randn(6, 3, 224, 224, generator=generator).half().float()  # as the official code does
    prompt_ids, condition_ids = tensors["prompt_ids"], tensors["condition_ids"]
    rows = [oracle.score_mps(model, prompt_ids[i // 2, None], pixels[i, None], condition_ids) for i in range(6)]
    scores = torch.tensor(rows).view(3, 2)
    answers = {"prompt_ids": prompt_ids, "condition_ids": condition_ids, "scores": scores}
    return answers | {"probabilities": scores.softmax(-1)}, meta, model


def main(out: Path) -> None:
    for name, ask in {"hpsv2": hpsv2, "imagereward": image_reward, "mps": mps}.items():
        with tempfile.TemporaryDirectory() as work, torch.no_grad():
            answers, meta, model = ask(Path(work))
        save_file(answers, out / f"{name}_small.safetensors", meta)
        if model is not None:
            keys = {key: list(value.shape) for key, value in model.state_dict().items()}
            (out / f"{name}_small_keys.json").write_text(json.dumps(keys))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
