"""The routes to a singular value decomposition: how long each takes, and how exact it is."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from golden.errors import GoldenError
from golden.noise import source_noise
from golden.npnet import NPNetConfig, decompose, to_matrix
from golden.timing import measure, synchroniser

WARM_UPS = 2
NUM_CALLS = 30


def summarise(seconds: list[float]) -> dict[str, float]:
    return {"median": median(seconds), "fastest": min(seconds), "slowest": max(seconds)}


Svd = tuple[Tensor, Tensor, Tensor]


def decompose_beside(matrix: Tensor) -> Svd:
    """On the CPU, with the result back on the matrix's device."""
    u, s, vh = decompose(matrix.cpu())
    return u.to(matrix.device), s.to(matrix.device), vh.to(matrix.device)


def decompose_gram(matrix: Tensor) -> Svd:
    """By eigendecomposition of the Gram matrix: fewer operations, but the condition number squared."""
    squares, v = torch.linalg.eigh(matrix.mT @ matrix)
    s, v = squares.clamp(min=0).sqrt().flip(-1), v.flip(-1)
    return matrix @ v / s.clamp(min=torch.finfo(s.dtype).tiny).unsqueeze(-2), s, v.mT


def decompose_gram_in_fp64(matrix: Tensor) -> Svd:
    u, s, vh = decompose_gram(matrix.double())
    return u.to(matrix.dtype), s.to(matrix.dtype), vh.to(matrix.dtype)


def routes_on(device: torch.device) -> dict[str, Callable[[Tensor], Svd]]:
    """The ways to compute a singular value decomposition on a device; CUDA's drivers by their names."""
    drivers = ("gesvd", "gesvdj", "gesvda") if device.type == "cuda" else ()
    routes: dict[str, Callable[[Tensor], Svd]] = {"torch.linalg.svd": decompose}
    routes |= {name: partial(decompose, cuda_driver=name) for name in drivers}
    if device.type != "cpu":
        routes["on the CPU"] = decompose_beside
    return routes | {"Gram matrix": decompose_gram, "Gram matrix in fp64": decompose_gram_in_fp64}


def time_routes(config: NPNetConfig, device: torch.device) -> list[dict[str, Any]]:
    """Each route on one and on eight matrices, as an NPNet makes them from noise: seconds, and errors against fp64.

    `value_error` is the largest error of a singular value relative to the largest value, `product_error` that of an
    entry of U diag(s) Vh, whose entries have unit variance; `vector_error` the largest departure of U from
    orthogonality. A route that fails has one sentence, `failed`, in their place.
    """
    rows: list[dict[str, Any]] = []
    for batch in (1, 8):
        noise = source_noise(range(batch), (config.channels, config.height, config.width))
        matrix = to_matrix(noise).to(device)
        exact = torch.linalg.svdvals(matrix.cpu().double())
        for name, route in routes_on(device).items():
            work = partial(route, matrix)
            try:
                u, s, vh = (part.cpu().double() for part in work())
            except (GoldenError, RuntimeError) as error:  # a driver may refuse or not converge
                rows.append({"route": name, "matrices": batch, "failed": str(error).splitlines()[0]})
                continue
            seconds = measure(work, NUM_CALLS, WARM_UPS, synchroniser(device))
            identity = torch.eye(u.shape[-1], dtype=u.dtype)
            rows.append(
                {
                    "route": name,
                    "matrices": batch,
                    "seconds": summarise(seconds),
                    "value_error": ((s - exact).abs().amax() / exact.amax()).item(),
                    "product_error": (u * s.unsqueeze(-2) @ vh - matrix.cpu().double()).abs().amax().item(),
                    "vector_error": (u.mT @ u - identity).abs().amax().item(),
                }
            )
    return rows
