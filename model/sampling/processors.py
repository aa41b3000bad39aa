"""What changes the logits of a row before a token is drawn: penalties and biases."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from model.sampling.settings import SamplingSettings

Processor = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]
"""Changes the logits of one row: (logits (vocab,), prompt tokens, generated tokens) -> (vocab,).
It may write into what it is given. A token at -inf is never drawn."""


class Penalties:
    """The three penalties of one request: a processor that counts each new token once.

    It is for one sequence, whose tokens only grow from call to call.
    """

    def __init__(self, settings: SamplingSettings) -> None:
        self._settings = settings
        self._places: dict[int, int] = {}  # of the tokens in the arrays
        self._tokens = np.empty(0, np.int64)
        self._counts = np.empty(0, np.float32)  # among the generated; 0 is in the prompt alone
        self._prompt_done = False
        self._done = 0  # generated tokens that are counted

    def __call__(self, logits: Tensor, prompt: Sequence[int], generated: Sequence[int]) -> Tensor:
        """Change the `logits`, (vocab,), of the next token in place."""
        self._count(prompt, generated)
        if not self._places:
            return logits
        settings, device = self._settings, logits.device
        tokens = torch.from_numpy(self._tokens).to(device)
        values = logits[tokens]
        factor = settings.repetition_penalty
        if factor != 1.0:
            values = torch.where(values > 0, values / factor, values * factor)
        taken = settings.frequency_penalty * self._counts
        taken += np.float32(settings.presence_penalty) * (self._counts > 0)
        values = values - torch.from_numpy(taken).to(device)
        logits[tokens] = values.to(logits.dtype)
        return logits

    def _count(self, prompt: Sequence[int], generated: Sequence[int]) -> None:
        if not self._prompt_done and self._settings.repetition_penalty != 1.0:
            self._add(list(dict.fromkeys(prompt)))
        self._prompt_done = True
        new = generated[self._done :]
        self._add([token for token in dict.fromkeys(new) if token not in self._places])
        for token in new:
            self._counts[self._places[token]] += 1
        self._done = len(generated)

    def _add(self, tokens: list[int]) -> None:
        """Make room for tokens that were not seen before."""
        if tokens:
            first = len(self._places)
            self._places.update((token, first + i) for i, token in enumerate(tokens))
            self._tokens = np.append(self._tokens, np.array(tokens, np.int64))
            self._counts = np.append(self._counts, np.zeros(len(tokens), np.float32))


class LogitBias:
    """A processor that adds a number of their own to the logits of some tokens."""

    def __init__(self, settings: SamplingSettings) -> None:
        self._tokens = torch.tensor([token for token, _ in settings.logit_bias])
        self._values = torch.tensor([value for _, value in settings.logit_bias])

    def __call__(self, logits: Tensor, prompt: Sequence[int], generated: Sequence[int]) -> Tensor:
        """Change the `logits`, (vocab,), of the next token in place."""
        tokens, values = self._tokens.to(logits.device), self._values.to(logits)
        return logits.index_add_(0, tokens, values)


def penalise(
    logits: Tensor, settings: SamplingSettings, prompt: Sequence[int], generated: Sequence[int]
) -> Tensor:
    """Apply the three penalties to one row, once.

    Args:
        logits: (vocab,)
        prompt, generated: token ids.

    Returns:
        (vocab,), a new tensor
    """
    return Penalties(settings)(logits.clone(), prompt, generated)
