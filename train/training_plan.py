"""What a whole training will take, from a few measured steps. Nothing is written."""

from golden.judges.scoring import watch_memory
from golden.plan import Measured, check_gpu, describe_plan
from golden.provenance import machine
from golden.timing import measure, synchroniser
from train.trainer import Trainer

NUM_MEASURED = 3
"""Steps, after a first one to warm up."""


def plan_training(trainer: Trainer, checkpoint_every: int | None = None, gpu: str | None = None) -> list[str]:
    """Lines with the time, disk, memory and money that a training will take.

    Raises: InvalidInput as `describe_plan`; TrainingDiverged.
    """
    device = trainer.accelerator.device
    name = machine(device)["device"]
    check_gpu(gpu, name)
    batch = next(iter(trainer.batches()))
    with watch_memory(str(device)) as memory:
        steps = measure(lambda: trainer.advance(batch), NUM_MEASURED, synchronise=synchroniser(device))
        (validation,) = measure(trainer.validate_average, 1, warmup=0, synchronise=synchroniser(device))
    num_validations = -(-trainer.num_steps // (checkpoint_every or trainer.steps_per_epoch))
    seconds = sum(steps) / len(steps) + validation * num_validations / trainer.num_steps
    state = [value for part in trainer.PARTS for value in _tensors(getattr(trainer, part).state_dict())]
    # The last checkpoint, the next one while it is written, and the weights.
    disk = 2 * sum(value.nbytes for value in state) + sum(value.nbytes for value in trainer.averaged.parameters())
    measured = Measured("steps", seconds, name, memory.bytes, fixed_disk=disk)
    rows = f"{trainer.objective.num_rows} rows, {trainer.num_steps} steps of {trainer.batch_size}"
    return [
        f"{rows}, {num_validations} validations of {validation:.1f} s",
        *describe_plan(measured, trainer.num_steps, gpu),
    ]


def _tensors(state: object) -> list:
    """The tensors of a state dict, however deep."""
    if hasattr(state, "nbytes"):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
