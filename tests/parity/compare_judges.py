"""Compare the judges with the original packages, from image file to score: `python tests/parity/compare_judges.py`.

The packages work in no environment that also holds current diffusers and gradio, so they get one of their own (several
gigabytes, made once under --env). Both sides hold the same models of published width and reduced depth, rebuilt from
the names of the originals' keys, so that no weights have to be fetched. Printed for each judge: the largest difference
of pixels and scores, and how many token ids differ. Exit code 1 if any is beyond its tolerance.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import PIL
import torch
from oracle import NUM_LAYERS
from PIL import Image
from rebuild import rebuilt
from safetensors.torch import load_file

from golden.judges import ALL_JUDGES, JUDGES, Judge
from golden.judges.inputs import openai_vocabulary

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_ENVIRONMENT = Path(tempfile.gettempdir()) / "golden-judge-parity"


PACKAGES = ["hpsv2==1.2.0", "image-reward==1.5", "transformers==4.55.4", "timm==0.6.13", "clip-anytorch"]
PACKAGES += ["torch", "torchvision", "einops"]
# Pillow 13 resizes some images differently from 12, by up to 13 of 255: both sides must have the same version.
PACKAGES += [f"pillow=={PIL.__version__}"]
# clip imports pkg_resources, which later versions no longer have.
PACKAGES += ["setuptools<80"]
# Its own requirements ask for newer versions than those above; of it, only the MPS module is used.
PACKAGES_ALONE = ["imscore==0.0.11"]

PIXEL_TOLERANCE = 1e-5
TOLERANCES = dict.fromkeys(ALL_JUDGES, 1e-4) | {"MPS": 2e-3}  # MPS's original halves the precision of its pixels

# Squares, both orientations, and odd margins, where the originals round the crop differently. HPSv2's original fails on
# images that are not square and whose longest edge is 224, so there is none.
SIZES = [(512, 512), (640, 400), (301, 768), (227, 224), (224, 231), (500, 371), (230, 100), (96, 64)]
PROMPTS = [
    "a cat & a dog “quoted”",
    "three red apples on a wooden table",
    "Ünïcode prompt, 3 apples; it's 日本語 🙂",
    "",
    "a very long prompt about apples, tables and dogs " * 20,
    "UPPER case &amp; html <b>bold</b>\n\tand   spaces",
    "mojibake: donâ€™t",
    "12345 67.8% @home #tag",
]


def make_environment(folder: Path) -> Path:
    """The Python of an environment with the original packages, created if need be."""
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        print(f"making the environment {folder}: several gigabytes", flush=True)
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--prefer-binary"]
        subprocess.run([*install, *PACKAGES], check=True)
        subprocess.run([*install, "--no-deps", *PACKAGES_ALONE], check=True)
        ready.touch()
    return python


def write_cases(work: Path) -> list[dict[str, str]]:
    """Images, prompts and vocabularies for both sides."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for index, ((width, height), prompt) in enumerate(zip(SIZES, PROMPTS, strict=True)):
        coarse = torch.rand(1, 3, 9, 9, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
        noisy = (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
        image = Image.fromarray((255 * noisy).byte().permute(1, 2, 0).numpy())
        path = work / f"{index}.png"
        (image.convert("L") if index == 1 else image).save(path)
        cases.append({"image": path.name, "prompt": prompt})
    (work / "cases.json").write_text(json.dumps(cases))
    vocab, merges = openai_vocabulary()
    (work / "vocab.json").write_text(json.dumps(vocab))
    (work / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
    (work / "wordpiece.txt").write_text("\n".join(wordpiece_vocabulary()) + "\n")
    return cases


def wordpiece_vocabulary() -> list[str]:
    """A vocabulary of our own in the format of BERT's: specials, single characters, and some words."""
    characters = [chr(code) for code in range(33, 127)]
    words = ["apples", "table", "red", "three", "dog", "cat", "very", "long", "prompt", "case", "bold", "##s", "日"]
    specials = ["[PAD]", *(f"[unused{index}]" for index in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return specials + characters + [f"##{character}" for character in characters] + words


def reduced_config(name: str, work: Path) -> dict[str, Any]:
    """The published config at the depth that the originals were built with."""
    config = copy.deepcopy(JUDGES[name].PUBLISHED)
    for part in ("text_config", "vision_config"):
        if "clip" in config:
            config["clip"][part]["num_hidden_layers"] = NUM_LAYERS
    for part in ("vision", "text"):
        if part in config:
            config[part]["num_hidden_layers"] = NUM_LAYERS
    for part in ("vision_cfg", "text_cfg"):
        if "open_clip" in config:
            config["open_clip"][part]["layers"] = NUM_LAYERS
    if name == "ImageReward":
        config["tokenizer"] = str(work / "wordpiece.txt")
    return config


def transformers_keys(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """openai's own spelling of a CLIP model in transformers'; other keys stay as they are."""
    whole = {
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    }
    parts = {
        "visual.transformer.resblocks.": "vision_model.encoder.layers.",
        "transformer.resblocks.": "text_model.encoder.layers.",
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "ln_final.": "text_model.final_layer_norm.",
        ".ln_1.": ".layer_norm1.",
        ".ln_2.": ".layer_norm2.",
        ".attn.": ".self_attn.",
        ".c_fc.": ".fc1.",
        ".c_proj.": ".fc2.",
    }
    renamed = {}
    for key, value in state.items():
        if key in ("text_projection", "visual.proj"):
            renamed["text_projection.weight" if key == "text_projection" else "visual_projection.weight"] = value.T
            continue
        key = whole.get(key, key)
        for theirs, ours in parts.items():
            key = key.replace(theirs, ours)
        if ".in_proj_" in key:
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                renamed[key.replace("in_proj_", f"{letter}_proj.")] = third
        else:
            renamed[key] = value
    return renamed


def build_ours(name: str, work: Path, answers: dict[str, torch.Tensor]) -> Judge:
    """Our judge with the originals' weights, through the same key mapping as official files."""
    keys = json.loads((work / f"{name}_keys.json").read_text())
    state = {key: answers.get(f"kept.{key}", rebuilt(key, torch.empty(shape))) for key, shape in keys.items()}
    if name in ("AES", "CLIPScore"):
        state = transformers_keys(state)
    cls = JUDGES[name]
    judge = cls(reduced_config(name, work)).eval()
    judge.load_state_dict(cls.convert({"state_dict": state} if name == "HPSv2" else state))
    return judge


def compare(name: str, work: Path, cases: list[dict[str, str]]) -> bool:
    """Print one judge's differences; True if all are within tolerance."""
    if not (work / f"{name}.safetensors").exists():
        print(f"{name:12} no answer from the original", flush=True)
        return False
    answers = load_file(work / f"{name}.safetensors")
    judge = build_ours(name, work, answers)
    images = [Image.open(work / case["image"]) for case in cases]
    prompts = [case["prompt"] for case in cases]
    pixels = (judge.preprocess(images) - answers["pixels"]).abs().max().item()
    tokens = (judge.tokenize(prompts).ids != answers["ids"]).sum().item() if judge.reads_prompts else 0
    ours = judge.score(images, prompts)
    scores = (ours - answers["scores"]).abs().max().item()
    spread = answers["scores"].std().item()
    print(f"{name:12} {pixels:10.1e} {tokens:7d} {scores:10.1e} {TOLERANCES[name]:10.0e} {spread:10.3f}", flush=True)
    return pixels <= PIXEL_TOLERANCE and tokens == 0 and scores <= TOLERANCES[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = DEFAULT_ENVIRONMENT
    parser.add_argument("--env", type=Path, default=default, help=f"folder of the environment, default {default}")
    env = parser.parse_args().env.resolve()
    python = make_environment(env)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cases = write_cases(work)
        subprocess.run([str(python), str(ROOT / "tests" / "parity" / "oracle.py"), str(work)], check=True)
        print(f"\n{'judge':12} {'pixels':>10} {'tokens':>7} {'scores':>10} {'tolerance':>10} {'spread':>10}")
        agree = [compare(name, work, cases) for name in ALL_JUDGES]
    print("\nequal" if all(agree) else "\nNOT equal")
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
