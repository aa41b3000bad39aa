"""The network in shards: FSDP2, and states that each process writes its own part of.

A network is divided when it is built, and whole again, to the last attribute, whenever it is
evaluated, sampled, saved or published: nothing but the training step meets a shard.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from model.errors import PenwrightError
from model.transformer import Block
from training.loop import distributed
from training.loop.replica import Calls, Replica
from training.loop.state_file import checksum, damaged


class ShardedReplica(Replica):
    """This process's shard of the network: each block is fetched by itself, the rest together."""

    def __init__(self, trained: nn.Module, device: torch.device) -> None:
        self.trained = trained
        self._modules = list(trained.modules())
        self._plain = [(type(module), _attributes(module)) for module in self._modules]
        mesh = init_device_mesh(device.type, (distributed.size(),))
        for module in self._modules:
            if isinstance(module, Block):
                fully_shard(module, mesh=mesh)
        self._root = Calls(trained)
        fully_shard(self._root, mesh=mesh)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Changes to the weights are lost afterwards."""
        sharded = [(type(module), module.__dict__) for module in self._modules]
        self._make_whole()
        try:
            yield
        finally:
            for module, (kind, attributes) in zip(self._modules, sharded, strict=True):
                attributes["training"] = module.training
                _become(module, kind, attributes)

    @torch.no_grad()
    def _make_whole(self) -> None:
        for module, (kind, attributes) in zip(self._modules, self._plain, strict=True):
            plain = {**attributes, "training": module.training}
            plain["_parameters"] = {
                name: None
                if weight is None
                else nn.Parameter(self.full(weight), requires_grad=weight.requires_grad)
                for name, weight in module._parameters.items()
            }
            _become(module, kind, plain)

    def full(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part(self, full: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return full
        return distribute_tensor(
            full.to(like.device), like.device_mesh, like.placements, src_data_rank=None
        )

    def close(self) -> None:
        self._make_whole()
        self._root = nn.Identity()


def _attributes(module: nn.Module) -> dict[str, Any]:
    """All that makes up a module but its weights, its tables of hooks copied."""
    found = {name: copy(v) if isinstance(v, dict) else v for name, v in vars(module).items()}
    return {**found, "_parameters": {}}  # the whole weights are to be forgotten


def _become(module: nn.Module, kind: type[nn.Module], attributes: dict[str, Any]) -> None:
    """FSDP makes a module one of another class, with hooks and other weights; there and back."""
    module.__class__ = kind
    object.__setattr__(module, "__dict__", attributes)


def write_shards(tensors: Mapping[str, Tensor], directory: Path) -> dict[str, int]:
    """Write what this process has of `tensors`; all processes come here together.

    Returns:
        Of all files their CRC-32, by which `read_shards` knows them.

    Raises:
        PenwrightError: a process could not write; names the directory.
    """
    try:
        save(dict(tensors), checkpoint_id=directory)
        # Each process reads again what it has just written itself.
        written = [*directory.glob(f"__{distributed.rank()}_*")]
        if distributed.first():
            written += directory.glob(".metadata")
        sums = {file.name: checksum(file) for file in written}
    except (CheckpointException, OSError) as error:
        raise PenwrightError(
            f"{directory}: cannot be written: {_reason(error)}; the state saved before still is"
        ) from error
    return {name: value for part in distributed.gather(sums) for name, value in part.items()}


def read_shards(
    tensors: Mapping[str, Tensor], directory: Path, sums: Mapping[str, int] | None = None
) -> None:
    """Fill `tensors` with what `write_shards` wrote, by however many processes.

    Args:
        sums: what it returned; None of a state of before.

    Raises:
        PenwrightError: a file is missing or damaged; names the directory.
    """
    _check(directory, sums or {})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it should be
            load(dict(tensors), checkpoint_id=directory, no_dist=not distributed.joined())
    except (CheckpointException, OSError, RuntimeError, ValueError, KeyError) as error:
        raise PenwrightError(
            f"--resume: {directory} cannot be read: {_reason(error)}; start again without --resume"
        ) from error


def _check(directory: Path, sums: Mapping[str, int]) -> None:
    """Compare the files with their checksums: each process some of them, for all.

    Raises:
        PenwrightError: one is missing or altered.
    """
    wrong = ""
    for name in sorted(sums)[distributed.rank() :: distributed.size()]:
        try:
            if checksum(directory / name) != sums[name]:
                wrong = f"the checksum of {name} is another"
        except OSError as error:
            wrong = f"{name}: {error.strerror or error}"
    found = [*filter(None, distributed.gather(wrong))]
    if found:
        raise damaged(directory, found[0])


def _reason(error: BaseException) -> str:
    """Of the first process that failed, where several did something together."""
    causes = getattr(error, "failures", None)
    first = next(iter(causes.values()))[0] if causes else error
    return str(first).strip().splitlines()[0] if str(first).strip() else type(first).__name__
