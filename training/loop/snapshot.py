"""What of a network and its optimizer is saved, and how it comes back.

Gathered, the tensors are whole, however many processes trained them: any number may go on. In
shards, every process writes its own part, and any number of processes may read them, too.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import UsageError
from training.loop import distributed
from training.loop import state as saved_state
from training.loop.optimizer import Optimizer
from training.loop.replica import Replica

States = list[dict[str, Any]]
"""Of the torch optimizers: `state[parameter][name]` is a tensor."""


def gathered(replica: Replica, optimizer: Optimizer) -> dict[str, Any]:
    """Whole tensors in the first process; in the others, whatever they had to give for it."""

    def full(_: str, tensor: Tensor) -> Tensor | None:
        whole = replica.full(tensor)
        return whole if distributed.first() else None

    own = replica.trained.state_dict()
    return {
        "trained": {name: full(name, tensor) for name, tensor in own.items()},
        "optimizer": _each(optimizer.state_dict(), full),
    }


def sharded(replica: Replica, optimizer: Optimizer, directory: Path, step: int) -> dict[str, Any]:
    """Write the tensors into a directory of their own, and return where they are."""
    from training.loop.sharding import write_shards

    target = saved_state.shards(directory, step)
    if distributed.first():  # of a run that was killed while it wrote
        shutil.rmtree(target, ignore_errors=True)
    distributed.total(0)
    tensors = {f"trained.{name}": t for name, t in replica.trained.state_dict().items()}

    def add(key: str, tensor: Tensor) -> list[int]:
        tensors[key] = tensor
        return list(tensor.shape)

    shapes = _each(optimizer.state_dict(), add)
    sums = write_shards(tensors, target)
    return {"shards": target.name, "sums": sums, "optimizer": shapes}


def restore(
    state: Mapping[str, Any], replica: Replica, optimizer: Optimizer, directory: Path
) -> None:
    """Give network and optimizer what `gathered` or `sharded` returned.

    Raises:
        UsageError: it was saved for parameters of other shapes, or in other groups.
    """
    if not optimizer.fits(state["optimizer"]):
        raise UsageError(
            "--resume: the saved optimizer has its parameters in other groups, as of another "
            "network, or of an earlier version (Muon then had heads and adapters as well, and "
            "AdamW an output layer that nothing reached); start again without --resume"
        )
    own = replica.trained.state_dict()
    parameters = optimizer.parameters_of_states()
    if "shards" in state:
        from training.loop.sharding import read_shards

        tensors = {f"trained.{name}": t for name, t in own.items()}

        def empty(key: str, shape: Any) -> Tensor:
            like = parameters[key.rpartition(".")[0]]
            same = list(like.shape) == shape
            tensor: Tensor = torch.zeros_like(like) if same else torch.zeros(shape)
            tensors[key] = tensor
            return tensor

        states = _each(state["optimizer"], empty)
        read_shards(tensors, directory / "state" / state["shards"], state.get("sums"))
    else:

        def part(key: str, full: Tensor) -> Tensor:
            like = parameters[key.rpartition(".")[0]]
            if not full.ndim:  # a count of steps
                return full
            if full.shape != like.shape:
                raise UsageError(
                    "--resume: the saved optimizer is of another network; start again without "
                    "--resume"
                )
            return replica.part(full, like)

        states = _each(state["optimizer"], part)
        trained = state["trained"]
        if {name: w.shape for name, w in trained.items()} != {n: w.shape for n, w in own.items()}:
            raise UsageError(
                "--resume: the saved weights are of another network; start again without --resume"
            )
        replica.trained.load_state_dict(
            {name: replica.part(full, own[name]) for name, full in trained.items()}
        )
    optimizer.load_state_dict(states)


def _each(states: States, function: Callable[[str, Any], Any]) -> States:
    """The same with `function(key, tensor)` in place of each tensor."""
    return [
        {
            **state,
            "state": {
                index: {
                    name: function(f"optimizer.{number}.{index}.{name}", tensor)
                    for name, tensor in values.items()
                }
                for index, values in state["state"].items()
            },
        }
        for number, state in enumerate(states)
    ]


def random_states(device: torch.device) -> list[dict[str, Tensor]]:
    """Of the generators of every process, in their order."""
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state()
    return distributed.gather(own)


def restore_random(state: Mapping[str, Any]) -> None:
    """Give this process's generators their state; those of a process that there was not before
    keep theirs."""
    states = state["random"]
    if isinstance(states, Tensor):  # saved before there were several processes
        states = [dict(zip(("cpu", "cuda"), [states, *state["cuda_random"]], strict=False))]
    if distributed.rank() < len(states):
        own = states[distributed.rank()]
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda"])
