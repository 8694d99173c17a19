"""The app: `python app.py`, then compare standard and golden noise in a browser."""

from contextlib import suppress

with suppress(ImportError):
    import spaces  # noqa: F401  Hugging Face's ZeroGPU, which must be imported before torch

from golden.errors import run_command
from golden.ui.app import main

if __name__ == "__main__":
    run_command(main)
