"""Run a command of golden on a Ray cluster, a worker per GPU, as torchrun would start them on machines of its own.

    RAY_ADDRESS=HOST:6379 python -m train.on_ray --num-workers 16 -- train runs/pairs --out runs/npnet
    python -m train.on_ray --num-workers 2 --device cpu -- bench --suite main --out runs/main

The cluster is that of RAY_ADDRESS, or else a small one on this machine that ends with the command. Every machine needs
the project at the same path, and runs/ on a file system that all share. If a worker fails the others are stopped; start
the command again, and it goes on where it was.
"""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golden.errors import ArgumentParser, InvalidInput, MissingWeights, run_command
from golden.flags import add_flags, flag, read_flags
from golden.provenance import ROOT
from train.settings import check_positive


@dataclass(frozen=True)
class RayOptions:
    command: tuple[str, ...] = flag(help="after --: a command of golden and its options", positional=True)
    num_workers: int = flag(1, "workers, each with a GPU of its own")
    device: str = flag("cuda", "what a worker needs: a GPU, or a CPU alone", choices=("cuda", "cpu"))


class Worker:
    """One process of the command, as an actor: it says where it is, and runs."""

    def address(self) -> tuple[str, int]:
        """(host, free port) of this machine, where the workers of the first one meet."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def run(self, command: Sequence[str], folder: str, variables: Mapping[str, str]) -> int:
        """The exit status of `python -m golden ...` in `folder`."""
        process = subprocess.run([sys.executable, "-m", "golden", *command], cwd=folder, env=os.environ | variables)
        return process.returncode


def run_on_ray(options: RayOptions) -> int:
    """Run the command in all workers, and return the first exit status that is not 0.

    Raises: MissingWeights if Ray is not installed; InvalidInput if the cluster has fewer GPUs than workers.
    """
    try:
        import ray
    except ImportError:
        raise MissingWeights("This needs the package ray: install it with pip install ray.") from None
    ray.init(
        include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},  # workers import the driver's own code
    )
    try:
        return _run(ray, options)
    finally:
        ray.shutdown()


def _run(ray: Any, options: RayOptions) -> int:
    on_gpu = options.device == "cuda"
    free = ray.cluster_resources().get("GPU", 0)
    if on_gpu and options.num_workers > free:
        raise InvalidInput(f"{options.num_workers} workers need as many GPUs, but the cluster has {free:g}.")
    remote = ray.remote(num_cpus=0, num_gpus=int(on_gpu))(Worker)
    workers = [remote.remote() for _ in range(options.num_workers)]
    host, port = ray.get(workers[0].address.remote())
    folder = str(Path.cwd())
    running = [
        worker.run.remote(options.command, folder, variables)
        for worker, variables in zip(workers, describe_workers(options.num_workers, host, port), strict=True)
    ]
    while running:
        (finished, *_), running = ray.wait(running)
        if status := ray.get(finished):
            for worker in workers:
                ray.kill(worker)
            return int(status)
    return 0


def describe_workers(number: int, host: str, port: int) -> list[dict[str, str]]:
    """The variables that torchrun would set, for each worker.

    Ray shows every worker its own GPU alone, so that each is the first on its machine.
    """
    meeting = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "WORLD_SIZE": str(number), "LOCAL_RANK": "0"}
    return [{"RANK": str(rank), **meeting} for rank in range(number)]


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    parser = ArgumentParser(prog=prog or "python -m train.on_ray", description=(__doc__ or "").splitlines()[0])
    add_flags(parser, RayOptions)
    options = read_flags(RayOptions, parser.parse_args(argv))
    check_positive(num_workers=options.num_workers)
    return run_on_ray(options)


if __name__ == "__main__":
    run_command(main)
