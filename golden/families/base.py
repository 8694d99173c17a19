"""What differs between families of pipelines, and nothing else in golden knows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput
from ..samplers import PLAIN_SAMPLERS

if TYPE_CHECKING:
    from torch import Tensor

Embeddings = dict[str, "Tensor"]
"""What conditions a pipeline (`prompt_embeds`, ..., a ControlNet's `image`): keyword arguments of its call, each with
one row per prompt."""


class Family:
    """One kind of diffusers pipelines. A family overrides what is not as here."""

    name: str
    title: str
    class_prefix: str
    """How the names of the family's pipeline classes begin."""
    base_model: str
    """The name in MODELS whose settings other models of the family start from."""
    npnets: tuple[str, ...] = ()
    """Published NPNets, as named in NPNETS, that fit pipelines of the family; the base model's first."""
    controlnet_class: str | None = None
    """The pipeline class that a ControlNet steers, None if the family has none."""
    text_encoders: tuple[str, ...] = ("text_encoder",)
    """The parts of a pipeline without which it cannot encode prompts."""
    noise = "4 channels, 8 pixels"
    """What latents are made of, for people."""
    num_tokens = 77
    """The tokens of a prompt that NPNet reads, start and end marks included."""
    samplers: tuple[str, ...] = PLAIN_SAMPLERS
    """The names of SAMPLERS that pipelines of the family can sample with."""
    is_flow = False
    """Whether the network predicts a flow's velocity, between sigmas from 1 (noise) to 0."""
    has_guidance_gap = True
    """Whether guidance changes what the network predicts, so that re-denoise sampling finds something."""
    takes_start_image = False
    """Whether the family's img2img pipelines start from an image in golden noise, see GoldenNoise.start_image."""

    half_precision = "float16"
    """The half precision that the family's weights were trained for, a name of torch."""
    latents_in_fp32 = False
    """Whether the pipeline denoises in fp32 whatever the precision of its network."""
    negative_prompt = ""
    """What guidance points away from."""

    optional_parts: tuple[str, ...] = ()
    """Parts that a folder may leave out (null in its model_index.json), of which the pipeline wants to be told."""

    def load_arguments(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` beyond those that all families take."""
        return {}

    def call_arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's call beyond those that all families take."""
        return {}

    def guidance_arguments(self, guidance_scale: float) -> dict[str, Any]:
        """Arguments of the pipeline's call that make its guidance `uncond + guidance_scale (cond - uncond)`."""
        return {"guidance_scale": guidance_scale}

    def embedding_arguments(self, embeddings: Embeddings, guidance_scale: float) -> dict[str, Any]:
        """The embeddings of some prompts as the pipeline's call takes them."""
        return dict(embeddings)

    def network(self, pipeline: Any) -> Any:
        """The network that denoises."""
        return pipeline.transformer

    def encode(self, pipeline: Any, prompts: list[str]) -> Embeddings:
        """The embeddings of prompts, positive and negative, one row per prompt."""
        raise NotImplementedError

    def npnet_embeds(self, embeddings: Embeddings) -> "Tensor":
        """The embeddings (B, T, D) of prompts that NPNet reads. Tokens of zeros only do not count."""
        return embeddings["prompt_embeds"]

    def embedding_dim(self, pipeline: Any) -> int:
        """The width of the prompt embeddings that NPNet reads."""
        return int(self.network(pipeline).config.cross_attention_dim)

    def latent_shape(self, pipeline: Any, height: int | None, width: int | None) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of an image of height x width pixels, native if None.

        Raises: InvalidInput for a size that is not a multiple of the model's smallest step in pixels.
        """
        scale = self.cell_size(pipeline)
        step = scale * self.patch_size(pipeline)
        for name, pixels in (("height", height), ("width", width)):
            if pixels is not None and (pixels < step or pixels % step):
                raise InvalidInput(f"The {name} must be a multiple of {step} pixels, got {pixels}.")
        size = self.native_size(pipeline)
        return (
            self.latent_channels(pipeline),
            (height // scale if height else size),
            (width // scale if width else size),
        )

    def cell_size(self, pipeline: Any) -> int:
        """The side of one cell of latents in pixels of the image."""
        return int(pipeline.vae_scale_factor)

    def patch_size(self, pipeline: Any) -> int:
        """The side of the squares of latents that are one token of the network, 1 for a UNet."""
        return int(getattr(self.network(pipeline).config, "patch_size", 1))

    def native_size(self, pipeline: Any) -> int:
        """The height and width of latents that the pipeline makes unless asked for others."""
        return int(self.network(pipeline).config.sample_size)

    def latent_channels(self, pipeline: Any) -> int:
        """The channels of latents. Not the network's: an inpainting UNet also sees a mask and the masked image."""
        return int(pipeline.vae.config.latent_channels)

    def pack(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        """Latents (B, C, h, w) as the pipeline's argument `latents` takes them."""
        return latents

    def unpack(self, pipeline: Any, packed: "Tensor", height: int, width: int) -> "Tensor":
        """The inverse, for latents of height x width."""
        return packed

    def read_output(self, pipeline: Any, output: "Tensor", height: int, width: int) -> "Tensor":
        """Finished latents (B, C, h, w) from what the pipeline returns with `output_type="latent"`."""
        return self.unpack(pipeline, output, height, width)

    def find_cut(self, pipeline: Any, prompt: str) -> str:
        """The end of a prompt that lies beyond the tokens that model and NPNet read, "" if there is none."""
        tokenizer = self.widest_tokenizer(pipeline)
        tokens = tokenizer(prompt, truncation=False, verbose=False).input_ids
        kept = self.num_read(pipeline) - 1  # the end mark takes one
        return tokenizer.decode(tokens[kept:-1]).strip() if len(tokens) > kept + 1 else ""

    def widest_tokenizer(self, pipeline: Any) -> Any:
        """The tokenizer of what reads the most of a prompt."""
        return pipeline.tokenizer or pipeline.tokenizer_2

    def num_read(self, pipeline: Any) -> int:
        """The tokens of a prompt that `widest_tokenizer` leaves."""
        return min(self.widest_tokenizer(pipeline).model_max_length, self.num_tokens)

    def unscale_latents(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        """Finished latents (B, C, h, w) as the VAE's decoder expects them."""
        config = pipeline.vae.config
        shift = getattr(config, "shift_factor", None)
        return latents / config.scaling_factor + shift if shift else latents / config.scaling_factor

    def scale_latents(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        """The inverse: what the VAE's encoder returns, as latents that the network denoises."""
        config = pipeline.vae.config
        shift = getattr(config, "shift_factor", None)
        return (latents - shift if shift else latents) * config.scaling_factor

    def decode(self, pipeline: Any, latents: "Tensor") -> "Tensor":
        """Finished latents (B, C, h, w) to pixels (B, 3, H, W) in [-1, 1]."""
        return pipeline.vae.decode(self.unscale_latents(pipeline, latents), return_dict=False)[0]

    def encode_pixels(self, pipeline: Any, pixels: "Tensor") -> "Tensor":
        """The inverse, without noise of the autoencoder's own."""
        return self.scale_latents(pipeline, pipeline.vae.encode(pixels).latent_dist.mode())


def name_outputs(names: Sequence[str], outputs: Sequence["Tensor"]) -> Embeddings:
    """The outputs of a pipeline's `encode_prompt` by the arguments of its call that take them."""
    return dict(zip(names, outputs, strict=True))
