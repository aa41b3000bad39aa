"""The network in training, as this process holds it: whole, or a shard of it.

none   one process
ddp    every process holds the whole network and its optimizer; gradients are averaged (Li et al.,
       PyTorch Distributed, 2020)
fsdp   every process holds a part of each weight, its gradient and its optimizer's state, and
       fetches the rest of a block when it is needed (PyTorch's FSDP2; Rajbhandari et al., ZeRO,
       2020). What does not learn is not divided.
"""

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.loop import distributed

PARALLEL = ("auto", "none", "ddp", "fsdp")


class Calls(nn.Module):
    """Owns a network and runs whatever it is given: to DDP and FSDP, the loss is its output.

    A task's loss calls parts of the network as it likes; all of it then happens inside of the
    forward pass that they watch.
    """

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, function: Callable[[], Tensor]) -> Tensor:
        return function()


class Replica:
    """The whole network in one process, or in each of several (DDP)."""

    def __init__(self, trained: nn.Module) -> None:
        self.trained = trained
        self._root: nn.Module = Calls(trained)
        if distributed.size() > 1:
            self._root = DistributedDataParallel(self._root, gradient_as_bucket_view=True)

    def backward(self, loss: Callable[[], Tensor], *, last: bool) -> float:
        """Add the gradient of `loss` to what is there.

        Args:
            loss: of this process; the gradient is that of the sum over all processes.
            last: of the step's passes: afterwards the gradients are complete.
        """
        waits = isinstance(self._root, DistributedDataParallel) and not last
        with self._root.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
            value = self._root(loss)
            # DDP and FSDP take the mean over the processes.
            (value * distributed.size()).backward()
        return float(value.detach())

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """The network with all of its weights, for everything that is not a step. All processes
        come here together."""
        yield

    def full(self, tensor: Tensor) -> Tensor:
        """All of a weight or of an optimizer's state, whatever part is here; of all processes."""
        return tensor

    def part(self, full: Tensor, like: Tensor) -> Tensor:
        """The part of `full` that belongs here: the same as of `like`."""
        return full

    def close(self) -> None:
        """Leave the network whole in each process, as if it had always been."""
        self._root = nn.Identity()
