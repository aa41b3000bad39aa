"""What the frozen beginning of a network makes of each text, computed once.

Where only the head learns, all of the network is such a beginning; where the last block learns, all
blocks before it. Their output for a text never changes, so a run that meets the text in every epoch
need not compute it again. Training from what was kept takes the same steps as training without, but
for rounding: the passes that fill the store hold other rows together.
"""

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.checkpoint.atomic import writing
from training.loop.task import pad_rows
from training.tuning.network import Network

_ROWS = 32  # of a forward pass

Float32 = npt.NDArray[np.float32]


class FrozenStates:
    """The hidden states of texts where the part of the network that learns begins.

    With method `head`, what the head reads of a text after the last layer norm; with `last-block`,
    of all tokens, before the last block.

    Args:
        texts: their tokens.
        limit: bytes to keep in memory; what is larger is written to `file` and mapped from there,
            until nothing needs it.
        autocast: whether training computes under bf16 autocast.

    Raises:
        PenwrightError: the file cannot be written; names it.
    """

    def __init__(
        self,
        network: Network,
        method: str,
        texts: Sequence[Sequence[int]],
        padding: int,
        *,
        limit: int,
        file: Path,
        autocast: bool = False,
    ) -> None:
        assert method in ("head", "last-block")
        self._network, self._texts, self._padding = network, texts, padding
        self._pooled, self._autocast = method == "head", autocast
        sizes = [len(tokens) for tokens in texts]
        # Texts of like length are computed together, and stand in the store in that order.
        self._order = sorted(range(len(sizes)), key=lambda i: sizes[i])
        self._lengths = np.array([1] * len(sizes) if self._pooled else sizes)
        ends = np.cumsum(self._lengths[self._order])
        self._starts = np.empty(len(sizes), np.int64)
        self._starts[self._order] = ends - self._lengths[self._order]
        width = network.model.config.n_embd
        if self._pooled:
            assert network.head is not None
            width = network.head.score.in_features
        self.bytes = 4 * width * int(ends[-1])
        self.in_memory = self.bytes <= limit
        self._states: Float32
        if self.in_memory:
            self._states = np.empty((int(ends[-1]), width), np.float32)
            # The longest first: what shorter texts take fits into the memory that these leave.
            for first in reversed(range(0, len(sizes), _ROWS)):
                for i, states in self._compute(first):
                    self._states[self._starts[i] : self._starts[i] + len(states)] = states
        else:
            self._states = self._on_disk(file).reshape(-1, width)

    def _on_disk(self, file: Path) -> Float32:
        """The states, mapped from a file that is gone as soon as nothing needs them: whatever ends
        the run, and be it a kill, frees its space."""
        try:
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as out:
                    for first in range(0, len(self._order), _ROWS):
                        for _, states in self._compute(first):
                            out.write(states.tobytes())
            mapped = np.memmap(file, np.float32, mode="r")
        except BaseException:
            _delete(file)
            raise
        if not _delete(file):  # Windows keeps what is mapped
            weakref.finalize(self, _delete, file)
        return mapped

    def _compute(self, first: int) -> Iterator[tuple[int, Float32]]:
        """Of a pass's texts, from the place `first` of the store on: which one, and its states,
        (tokens, n_embd)."""
        network = self._network
        was_training = network.model.training
        chosen = self._order[first : first + _ROWS]
        tokens = [self._texts[i] for i in chosen]
        inputs, lengths = pad_rows(tokens, self._padding, network.device)
        network.model.eval()
        with (
            torch.no_grad(),
            torch.autocast(network.device.type, torch.bfloat16, enabled=self._autocast),
        ):
            states = self._pass(inputs, lengths).float().cpu().numpy()
        network.model.train(was_training)
        for i, of_text in zip(chosen, states, strict=True):
            yield i, of_text[: self._lengths[i]]

    def _pass(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """(rows, tokens, n_embd); of what the head reads, (rows, 1, features)"""
        if self._pooled:
            assert self._network.head is not None
            return self._network.head.pool(self._network.hidden(inputs), lengths)[:, None]
        # What enters the last block, out of the network's own pass.
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.append(args[0])

        handle = self._network.model.blocks[-1].register_forward_pre_hook(keep)
        self._network.hidden(inputs)
        handle.remove()
        return seen[0]

    def batch(self, examples: Sequence[int]) -> Tensor:
        """(rows, longest, n_embd), zeros after the last token of a text; (rows, features) where
        what the head reads is kept"""
        parts = [
            torch.from_numpy(np.array(self._states[start : start + length]))
            for start, length in ((self._starts[i], self._lengths[i]) for i in examples)
        ]
        padded = nn.utils.rnn.pad_sequence(parts, batch_first=True).to(self._network.device)
        return padded[:, 0] if self._pooled else padded


def _delete(file: Path) -> bool:
    """Delete the file, and its directory if nothing else is in it; whether the file is gone."""
    try:
        file.unlink(missing_ok=True)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        file.parent.rmdir()
    return True


def hidden_from(network: Network, states: Tensor) -> Tensor:
    """The rest of the network on a batch of `FrozenStates`: hidden states after the last layer
    norm, (rows, longest, n_embd), or (rows, features) where what the head reads was kept."""
    if states.ndim == 2:
        return states
    return network.model.last_block(states)
