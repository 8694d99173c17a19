"""Golden noise as a block of Modular Diffusers: it goes between text encoding and latents.

    blocks = StableDiffusionXLAutoBlocks()  # or StableDiffusion3AutoBlocks
    blocks.sub_blocks.insert("golden_noise", GoldenNoiseStep(), 1)  # after text_encoder
    pipe = blocks.init_pipeline("stabilityai/stable-diffusion-xl-base-1.0")
    pipe.load_components(dtype=torch.float16)
    image = pipe(prompt="a lighthouse", generator=torch.Generator().manual_seed(7), output="images")[0]

The pipeline itself stays as it is, and so do its other arguments. Import this module by its name: `import golden` alone
does not load diffusers.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.modular_pipelines import InputParam, ModularPipelineBlocks, OutputParam, PipelineState
from diffusers.utils.torch_utils import randn_tensor

from . import __version__
from .errors import InvalidInput
from .families import find_family
from .files import write_bytes
from .library import GoldenNoise
from .npnet import NPNet
from .pipelines import latent_shape

MODULE = "golden_noise"
_CODE = f'''"""Golden noise for Modular Diffusers; needs the package golden {__version__} or later."""

from golden.modular import GoldenNoiseStep

__all__ = ["GoldenNoiseStep"]
'''


class GoldenNoiseStep(ModularPipelineBlocks):
    """Turns the noise that the pipeline would start from into NPNet's golden noise.

    The source noise is `latents` (B, C, h, w) if given, else what the pipeline would draw with `generator`.
    """

    def __init__(self, npnet: str | Path | NPNet | None = None) -> None:
        """`npnet` as for `GoldenNoise.for_pipeline`: a network, a file, a folder, a repository on the Hub or a name.

        Without it the model's own is found when the block first runs.
        """
        super().__init__()
        self._npnet = npnet

    @property
    def description(self) -> str:
        return "Golden noise: turns the initial noise and the prompt into noise that gives a better image (NPNet)."

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("prompt_embeds", required=True, type_hint=torch.Tensor, description="What NPNet reads."),
            InputParam("num_images_per_prompt", type_hint=int, default=1, description="Rows for each prompt."),
            InputParam("generator", description="A torch.Generator, or one for each row, that draws the source noise."),
            InputParam("latents", type_hint=torch.Tensor, description="Source noise of unit variance, if given."),
            InputParam("height", type_hint=int, description="Height of the images in pixels."),
            InputParam("width", type_hint=int, description="Width of the images in pixels."),
            InputParam("golden_strength", type_hint=float, default=1.0, description="0 (source noise) to 3."),
            InputParam("image", description="Refused: a start image would be replaced by noise."),
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("latents", type_hint=torch.Tensor, description="Golden noise (B, C, h, w).")]

    @torch.no_grad()
    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Raises: InvalidInput for a start image, or as GoldenNoise does; MissingWeights if no NPNet is known."""
        block = self.get_block_state(state)
        if block.image is not None:
            raise InvalidInput("Golden noise is for generation from a prompt: call the pipeline without image.")
        golden = GoldenNoise.for_pipeline(components, self._npnet)
        self._npnet = golden.npnet  # found or read once
        embeds = find_family(components).npnet_embeds({"prompt_embeds": block.prompt_embeds})
        source: dict[str, Any] = {"height": block.height, "width": block.width}
        if block.latents is None and block.generator is not None:
            source["generator"] = block.generator
        else:
            source["latents"] = _draw(components, block) if block.latents is None else block.latents
        block.latents = golden(
            prompt_embeds=embeds,
            num_images_per_prompt=block.num_images_per_prompt,
            strength=block.golden_strength,
            **source,
        )
        self.set_block_state(state, block)
        return components, state

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **options: Any) -> None:
        """Write what `ModularPipelineBlocks.from_pretrained(FOLDER, trust_remote_code=True)` loads.

        That is `modular_config.json` and a module that imports this class: the code is the installed package's.
        """
        write_bytes(Path(save_directory) / f"{MODULE}.py", _CODE.encode())
        self.register_to_config(auto_map={"ModularPipelineBlocks": f"{MODULE}.{type(self).__name__}"})
        self.save_config(save_directory, push_to_hub=push_to_hub, **options)


def _draw(components: Any, block: Any) -> torch.Tensor:
    """What the pipeline would draw without a generator: another noise in each call."""
    rows = len(block.prompt_embeds) * block.num_images_per_prompt
    shape = (rows, *latent_shape(components, block.height, block.width))
    return randn_tensor(shape, None, components._execution_device, block.prompt_embeds.dtype)
