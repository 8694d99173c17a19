"""What several workers of one training, started by torchrun, share: batches, gradients and files.

On a CPU, workers of one thread each are faster than one worker of several. Without torchrun there is one worker, whose
share is all.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from golden.errors import InvalidInput
from golden.files import atomic_path
from golden.model import pick_device
from golden.provenance import find_worker


def join_workers() -> int:
    """Meet the other workers, and return this one's rank; the first, 0, saves and reports."""
    rank, num_workers = find_worker()
    if num_workers > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    return rank


def device_of_worker(name: str) -> str:
    """The device of this worker, where a user asks for `name`: under torchrun the GPUs are shared out by turns.

    A GPU that is asked for by its number is every worker's. Raises: InvalidInput for a device that torch lacks here.
    """
    device, (_, num_workers) = pick_device(name), find_worker()
    if device != "cuda" or num_workers == 1:
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def wait_for_workers() -> None:
    """Return when all workers have come here."""
    if dist.is_initialized():
        dist.barrier()


def make_files(paths: Mapping[int, Path], make: Callable[[int], dict[str, Any]], title: str) -> None:
    """Save what `make` returns for each index whose file is not there yet; each worker makes its share of the files."""
    rank, num_workers = find_worker()
    for index, path in tqdm([*paths.items()][rank::num_workers], title, disable=None):
        if not path.is_file():
            with atomic_path(path) as temporary:
                torch.save(make(index), temporary)
    wait_for_workers()


def own_share(num_rows: int) -> slice:
    """The rows of a batch of `num_rows` that this worker computes.

    Raises: InvalidInput if the rows cannot be shared evenly.
    """
    rank, num_workers = find_worker()
    if num_rows % num_workers:
        raise InvalidInput(f"A batch of {num_rows} rows cannot be shared evenly by {num_workers} workers.")
    share = num_rows // num_workers
    return slice(rank * share, (rank + 1) * share)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every worker's gradients by their mean over all workers."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, averaged in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(averaged.view_as(gradient))
