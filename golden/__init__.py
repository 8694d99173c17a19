"""Golden noise for diffusion models; `from golden import GoldenNoise` on top of a diffusers pipeline."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import GoldenError
    from .judges import load_judge, load_judges
    from .library import GoldenNoise
    from .model import load_model
    from .models import MODELS
    from .modular import GoldenNoiseStep
    from .npnet import NPNETS, NPNet, NPNetConfig, load_npnet, save_npnet

__version__ = "0.12.0"

_MODULES = {
    "GoldenError": "errors",
    "GoldenNoise": "library",
    "GoldenNoiseStep": "modular",
    "MODELS": "models",
    "NPNETS": "npnet",
    "NPNet": "npnet",
    "NPNetConfig": "npnet",
    "load_judge": "judges",
    "load_judges": "judges",
    "load_model": "model",
    "load_npnet": "npnet",
    "save_npnet": "npnet",
}
"""Public name -> its module, which is loaded when the name is asked for: `import golden` and `--help` cost nothing."""

__all__ = [
    "MODELS",
    "NPNETS",
    "GoldenError",
    "GoldenNoise",
    "GoldenNoiseStep",
    "NPNet",
    "NPNetConfig",
    "__version__",
    "load_judge",
    "load_judges",
    "load_model",
    "load_npnet",
    "save_npnet",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
