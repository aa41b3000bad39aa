"""Several processes that train one network together, as `torchrun` starts them.

    torchrun --nproc-per-node 2 -m training.cli pretrain --data book.txt --out mine

Every process reads the same data and takes its share of each step's examples. The first one alone
writes files and prints, and after the last step goes on by itself to measure and publish. What
the processes tell each other beside the gradients are a few numbers a step, over gloo; gradients
and weights go over NCCL on CUDA devices.

When a process fails, the connections of the others break and they end with an error; when it
hangs, they end after `--process-timeout`.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from model.errors import PenwrightError, UsageError

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun says to the processes that it starts."""


_group: Any = None
"""The group, kept until the next one so that no `DistributedDataParallel` is its last owner: that
one's destructor waits for gloo's thread with Python's lock held, which the thread may be waiting
for to give back the last tensors."""


class AllStop(PenwrightError):
    """An error that every process comes to by itself: the first one alone reports it."""


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if joined() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if joined() else 0


def first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def joined() -> bool:
    """Whether torchrun started this process, be it the only one."""
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def processes(device: str, timeout: int | None) -> Iterator[None]:
    """Join the processes that torchrun started with this one, if it did.

    Args:
        device: `cpu`, `cuda` or `auto`.
        timeout: seconds that one process waits for another; None if the command runs in one only.

    Raises:
        UsageError: the command runs in one process only, or there are too few devices.
        PenwrightError: another process failed, or did not answer in time.
    """
    if not all(name in os.environ for name in _TORCHRUN):
        yield
        return
    if timeout is None:
        if int(os.environ["WORLD_SIZE"]) > 1:
            raise UsageError("this command runs in one process: start it without torchrun")
        yield
        return
    _join(device, timeout)
    name = f"process {rank()} of {size()}"
    try:
        with contextlib.ExitStack() as stack:
            if not first():  # what it would print, the first one prints
                null = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(null))
                stack.enter_context(contextlib.redirect_stderr(null))
            yield
    except AllStop:
        alone = first()
        dist.destroy_process_group()
        if alone:
            raise
        raise SystemExit(1) from None
    except PenwrightError as error:
        error.args = (f"{name}: {error}", *error.args[1:])
        raise
    except RuntimeError as error:
        if not _is_lost_connection(error):
            traceback.print_exc()
            abandon(1)
        reason = str(error).strip().splitlines()[0]
        raise PenwrightError(
            f"{name}: another process failed, and says why, or did not answer within "
            f"--process-timeout {timeout} seconds ({reason})"
        ) from error
    else:
        if joined():
            dist.destroy_process_group()


def abandon(code: int) -> None:
    """End this process now if it trained with others: to take a broken group down in order could
    wait for those that are gone. Its connections close, and so tell the others."""
    if joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _join(device: str, timeout: int) -> None:
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise UsageError(
                f"--nproc-per-node is above {local}; this machine has {count} CUDA devices, and "
                "each process takes one"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except RuntimeError as error:
        raise PenwrightError(
            f"the processes of this run do not find each other at {os.environ['MASTER_ADDR']}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    global _group
    _group = dist.group.WORLD


def _is_lost_connection(error: RuntimeError) -> bool:
    if isinstance(error, getattr(dist, "DistError", ())):
        return True
    words = ("gloo", "nccl", "connection", "timed out", "broken pipe", "socket")
    return any(word in str(error).lower() for word in words)


@contextlib.contextmanager
def first_goes_first() -> Iterator[None]:
    """Let the first process run the block before the others do, who then read what it wrote."""
    if not first():
        total(0)
    yield
    if first():
        total(0)


def leave() -> None:
    """End the work of all processes but the first, which goes on alone."""
    if not joined():
        return
    alone = first()
    total(0)
    dist.destroy_process_group()
    if not alone:
        raise SystemExit(0)


def total(*values: float) -> list[float]:
    """The sums of what each process gives; the same bits in all of them."""
    if not joined():
        return [float(value) for value in values]
    numbers = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(numbers)
    return [float(number) for number in numbers]


def of_first(value: float) -> float:
    """What the first process gives. Devices may differ in the last bits; decisions must not."""
    return total(value if first() else 0.0)[0]


def gather(value: Any) -> list[Any]:
    """What each process gives, in their order."""
    if not joined():
        return [value]
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, value)
    return found
