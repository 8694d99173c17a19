"""What the package hpsv3 answers for a small model of rebuilt weights: the figures in tests/test_vision_language.py.

    pip download --no-deps hpsv3==1.0.0 && unzip hpsv3-1.0.0-*.whl -d hpsv3
    pip install --no-deps --target old transformers==4.45.2 tokenizers==0.20.3 huggingface_hub==0.26.5
    PYTHONPATH=old python tests/parity/ask_hpsv3.py hpsv3/hpsv3/model/qwen2vl_trainer.py

The package pins what fits no environment of this project (transformers 4.45.2, deepspeed, trl). Its reward model needs
none of the others: that one class is taken out of its file and run as it is.
"""

import ast
import sys
import typing
from pathlib import Path

import torch
import transformers
from rebuild import rebuild
from torch import nn

TEXT = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
}
VISION = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
IMAGE, REWARD, PAD = 151, 152, 0
BEFORE, AFTER, END = [5, 6, 7], ([9, 10, 11, 12], [20, 21]), [13, 14]
ROWS, COLUMNS = 4, 6  # patches of each image, four to a token


def load_original(path: Path) -> type:
    """The package's reward model, without the rest of its file."""
    tree = ast.parse(path.read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Qwen2VLRewardModelBT")
    names = {**vars(typing), "torch": torch, "nn": nn}
    names["Qwen2VLForConditionalGeneration"] = transformers.Qwen2VLForConditionalGeneration
    exec(compile(ast.Module([found], []), str(path), "exec"), names)
    return names[found.name]


def make_pixels() -> torch.Tensor:
    return torch.randn(2, 3, ROWS * 14, COLUMNS * 14, generator=torch.Generator().manual_seed(0))


def make_ids() -> torch.Tensor:
    image = [IMAGE] * (ROWS * COLUMNS // 4)
    rows = [[*BEFORE, *image, *after, REWARD, *END] for after in AFTER]
    length = max(map(len, rows))
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


def main() -> None:
    rope = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    config = transformers.Qwen2VLConfig(
        **TEXT, **rope, vision_config=VISION | {"spatial_merge_size": 2}, attn_implementation="eager"
    )
    config.image_token_id, config.pad_token_id = IMAGE, PAD
    model = load_original(Path(sys.argv[1]))(config, output_dim=2, special_token_ids=[REWARD], rm_head_type="ranknet")
    model.load_state_dict(rebuild(model.float().eval().state_dict()))
    processor = transformers.models.qwen2_vl.image_processing_qwen2_vl.Qwen2VLImageProcessor(
        do_resize=False, do_rescale=False, do_normalize=False, patch_size=14, merge_size=2, temporal_patch_size=2
    )
    images = [image.permute(1, 2, 0).numpy() for image in make_pixels()]
    seen = processor(images, return_tensors="pt", input_data_format="channels_last")
    ids = make_ids()
    with torch.no_grad():
        answer = model(input_ids=ids, attention_mask=(ids != PAD).long(), return_dict=True, **seen)
    print(transformers.__version__, answer["logits"][:, 0].tolist())


if __name__ == "__main__":
    main()
