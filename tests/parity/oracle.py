"""What the original packages answer. Runs in the environment that `compare_judges.py` makes; imports nothing of golden.

    python oracle.py WORK

WORK holds `cases.json` (a list of {"image", "prompt"}), `vocab.json` and `merges.txt` (CLIP's), `wordpiece.txt`. For
each judge, `<judge>.safetensors` (pixels, ids, scores, and `kept.<key>` for weights that are not rebuilt) and
`<judge>_keys.json` (every key and shape of the original's state dict) are written beside them.

Each model is built by its package's own classes at the published width and reduced depth, with rebuilt weights.
"""

import importlib.util
import json
import shutil
import sys
import traceback
from pathlib import Path

import torch
from PIL import Image
from rebuild import is_rebuilt, rebuild
from safetensors.torch import save_file

NUM_LAYERS = 2
LOGIT_SCALE = 4.6052


def main(work: Path) -> None:
    cases = json.loads((work / "cases.json").read_text())
    images, prompts = [str(work / case["image"]) for case in cases], [case["prompt"] for case in cases]
    for name, ask in ORACLES.items():
        try:
            with torch.no_grad():
                model, pixels, ids, scores = ask(work, images, prompts)
        except Exception:  # one package that fails is reported and does not hide what the others say
            traceback.print_exc()
            continue
        state = model.state_dict()
        kept = {f"kept.{key}": value.clone() for key, value in state.items() if must_be_kept(key, value)}
        answers = {"pixels": pixels, "ids": ids, "scores": torch.tensor(scores)} | kept
        save_file({key: value.contiguous() for key, value in answers.items()}, work / f"{name}.safetensors")
        keys = {key: list(value.shape) for key, value in state.items()}
        (work / f"{name}_keys.json").write_text(json.dumps(keys))
        print(f"{name}: asked", flush=True)


def must_be_kept(key: str, value: torch.Tensor) -> bool:
    return value.is_floating_point() and (not is_rebuilt(key, value) or key == "visual.proj")


def filled(model: torch.nn.Module) -> torch.nn.Module:
    model.load_state_dict(rebuild(model.state_dict()))
    return model.eval()


def clip_config():
    from transformers import CLIPConfig

    tower = {"num_hidden_layers": NUM_LAYERS, "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 1024}
    text = tower | {"hidden_size": 1024, "intermediate_size": 4096}
    vision = tower | {"hidden_size": 1280, "intermediate_size": 5120, "image_size": 224, "patch_size": 14}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=1024, logit_scale_init_value=LOGIT_SCALE)


def clip_processor(work: Path):
    from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizerFast

    tokenizer = CLIPTokenizerFast(vocab_file=str(work / "vocab.json"), merges_file=str(work / "merges.txt"))
    return CLIPProcessor(CLIPImageProcessor(), tokenizer)


def pickscore(work, images, prompts):
    """As on the model card of yuvalkirstain/PickScore_v1."""
    from transformers import CLIPModel

    model, processor = filled(CLIPModel(clip_config())), clip_processor(work)
    all_pixels, all_ids, scores = [], [], []
    for path, prompt in zip(images, prompts, strict=True):
        pixels = processor(images=Image.open(path), return_tensors="pt")
        text = processor(text=prompt, padding=True, truncation=True, max_length=77, return_tensors="pt")
        image_embeds, text_embeds = model.get_image_features(**pixels), model.get_text_features(**text)
        image_embeds = image_embeds / torch.norm(image_embeds, dim=-1, keepdim=True)
        text_embeds = text_embeds / torch.norm(text_embeds, dim=-1, keepdim=True)
        scores.append((model.logit_scale.exp() * (text_embeds @ image_embeds.T)).item())
        all_pixels.append(pixels["pixel_values"])
        padding = 77 - text["input_ids"].shape[1]
        all_ids.append(torch.nn.functional.pad(text["input_ids"], (0, padding), value=49407))
    return model, torch.cat(all_pixels), torch.cat(all_ids), scores


def hpsv2(work, images, prompts):
    """hpsv2.img_score.score, from a checkpoint file; only the depth of its model config is changed."""
    folder = Path(importlib.util.find_spec("hpsv2").submodule_search_locations[0]) / "src" / "open_clip"
    vocabulary = Path(importlib.util.find_spec("clip").submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    if not (folder / vocabulary.name).exists():  # the wheel lacks this file, without which it cannot be imported
        shutil.copy(vocabulary, folder)
    from hpsv2 import img_score
    from hpsv2.src.open_clip import factory, get_tokenizer

    config = factory._MODEL_CONFIGS["ViT-H-14"]
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = NUM_LAYERS
    create = img_score.create_model_and_transforms
    img_score.create_model_and_transforms = lambda name, pretrained, **options: create(name, "", **options)
    img_score.initialize_model()
    model, preprocess = img_score.model_dict["model"], img_score.model_dict["preprocess_val"]
    checkpoint = work / "hpsv2.pt"
    torch.save({"state_dict": rebuild(model.state_dict())}, checkpoint)
    scores = [
        100 * float(img_score.score(path, prompt, cp=str(checkpoint))[0])
        for path, prompt in zip(images, prompts, strict=True)
    ]
    pixels = torch.stack([preprocess(Image.open(path)) for path in images])
    return model, pixels, get_tokenizer("ViT-H-14")(prompts), scores


def openai_clip(*shape):
    """(model, preprocess) of openai's own classes, which the image-reward package asks `clip.load` for."""
    import clip

    model = filled(clip.model.CLIP(*shape).float())
    # rebuilt cosines happen to be negative, where CLIPScore is flat
    model.visual.proj.data.neg_()
    return model, clip.clip._transform(224)


def aesthetic(work, images, prompts):
    """ImageReward's AestheticScore, which is the improved-aesthetic-predictor."""
    import clip
    from ImageReward.models.AestheticScore import AestheticScore

    model, preprocess = openai_clip(768, 224, NUM_LAYERS, 1024, 14, 77, 49408, 768, 12, NUM_LAYERS)
    clip.load = lambda *args, **options: (model, preprocess)
    judge = AestheticScore(download_root=None).eval()
    judge.mlp.load_state_dict(rebuild(judge.mlp.state_dict()))
    state = torch.nn.Module()
    state.visual, state.layers = model.visual, judge.mlp.layers
    pixels = torch.stack([preprocess(Image.open(path)) for path in images])
    return state, pixels, torch.zeros(0), [judge.score("", path) for path in images]


def clip_score(work, images, prompts):
    """ImageReward's CLIPScore with a ViT-B/32, times 2.5 and cut at 0."""
    import clip
    from ImageReward.models.CLIPScore import CLIPScore

    model, preprocess = openai_clip(512, 224, NUM_LAYERS, 768, 32, 77, 49408, 512, 8, NUM_LAYERS)
    clip.load = lambda *args, **options: (model, preprocess)
    judge = CLIPScore(download_root=None).eval()
    scores = [2.5 * max(judge.score(prompt, path), 0) for path, prompt in zip(images, prompts, strict=True)]
    pixels = torch.stack([preprocess(Image.open(path)) for path in images])
    return model, pixels, clip.tokenize(prompts, truncate=True).long(), scores


def image_reward(work, images, prompts):
    """ImageReward.ImageReward, with a smaller depth and a vocabulary of our own."""
    from ImageReward.ImageReward import ImageReward
    from ImageReward.models.BLIP import blip_pretrain
    from ImageReward.models.BLIP.vit import VisionTransformer
    from transformers import BertTokenizer

    vision = VisionTransformer(img_size=224, patch_size=16, embed_dim=1024, depth=NUM_LAYERS, num_heads=16)
    blip_pretrain.create_vit = lambda *args: (vision, 1024)
    blip_pretrain.init_tokenizer = lambda: BertTokenizer(str(work / "wordpiece.txt"))
    config = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": 12,
        "num_hidden_layers": NUM_LAYERS,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": 30524,
        "add_cross_attention": True,
    }
    (work / "med_config.json").write_text(json.dumps(config))
    model = filled(ImageReward(str(work / "med_config.json")))
    pixels = torch.stack([model.preprocess(Image.open(path)) for path in images])
    text = model.blip.tokenizer(prompts, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
    return (
        model,
        pixels,
        text.input_ids,
        [model.score(prompt, path) for path, prompt in zip(images, prompts, strict=True)],
    )


def get_text_features(model, input_ids):
    """The port's own, without the arguments that this transformers no longer takes."""
    output = model.text_model(input_ids=input_ids)
    return model.text_projection(output.last_hidden_state), model.text_projection(output.pooler_output)


def get_image_features(model, pixel_values):
    """As `get_text_features`."""
    return model.visual_projection(model.vision_model(pixel_values=pixel_values).last_hidden_state)


def build_mps():
    """The port's model, from imscore: the official code is on no package index."""
    from imscore.mps import model as port

    port.XCLIPModel.from_pretrained = classmethod(lambda cls, name: cls(clip_config()))
    # The port was written for a transformers whose towers took more arguments.
    port.XCLIPModel.get_text_features, port.XCLIPModel.get_image_features = get_text_features, get_image_features
    model = port.CLIPModel()
    model.model.text_model.eos_token_id = 2
    return filled(model)


def score_mps(model, prompt_ids, pixels, condition_ids):
    """The score of one image, whose pixels have the batch to themselves: the port's mask depends on the batch."""
    text_embeds, image_embeds = model(prompt_ids, pixels, condition_ids)
    image_embeds = image_embeds / image_embeds.norm(dim=-1, keepdim=True)
    text_embeds = text_embeds / text_embeds.norm(dim=-1, keepdim=True)
    return (model.model.logit_scale.exp() * (text_embeds * image_embeds).sum()).item()


def mps(work, images, prompts):
    """The port with the official pixels and tokens."""
    model, processor = build_mps(), clip_processor(work)
    condition = (
        "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
        "texture, quantity, attributes, position, number, location, word, things."
    )

    def tokenize(text):
        return processor.tokenizer(
            text, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids

    all_pixels, all_ids, scores = [], [], []
    for path, prompt in zip(images, prompts, strict=True):
        pixels, ids = processor.image_processor(Image.open(path), return_tensors="pt")["pixel_values"], tokenize(prompt)
        scores.append(score_mps(model, ids, pixels, tokenize(condition)))
        all_pixels.append(pixels)
        all_ids.append(ids)
    return model, torch.cat(all_pixels), torch.cat(all_ids), scores


ORACLES = {
    "PickScore": pickscore,
    "HPSv2": hpsv2,
    "AES": aesthetic,
    "ImageReward": image_reward,
    "CLIPScore": clip_score,
    "MPS": mps,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
