"""Golden noise for diffusion models; `from golden import GoldenNoise` on top of a diffusers pipeline."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .library import GoldenNoise

__all__ = ["GoldenNoise"]


def __getattr__(name: str) -> Any:
    """Load the library when it is asked for, so that `import golden` and `python -m golden --help` cost nothing."""
    if name == "GoldenNoise":
        from .library import GoldenNoise

        return GoldenNoise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
