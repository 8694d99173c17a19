"""Train a verifier: from latents at any step and a prompt, will the finished image be right?

    python train/train_verifier.py runs/pairs --out runs/verifier
    python train/train_verifier.py runs/pairs --out runs/verifier --label HPSv2 --num-scenes 0     # a judge's score
    torchrun --standalone --nproc-per-node 2 train/train_verifier.py runs/pairs --out runs/verifier

Writes verifier.safetensors (the moving average), log.jsonl with the area under the ROC curve at every step of the
sampler, and a checkpoint; killed and started again, it goes on from there. Validation is on prompts that are held out.
"""

from collections.abc import Sequence

from golden.errors import ArgumentParser, run_command
from golden.flags import add_flags, read_flags
from train.settings import VerifierOptions


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    add_flags(parser, VerifierOptions)
    options = read_flags(VerifierOptions, parser.parse_args(argv))
    from train.verifier_training import train_verifier  # here, since it takes seconds to import

    train_verifier(options)


if __name__ == "__main__":
    run_command(main)
