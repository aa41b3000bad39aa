"""What a system does for the benchmarks. Token ids in, token ids out; all run to the full length.

What a system lacks raises `NotImplementedError` and is shown so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Tokens = list[int]
Sampling = Mapping[str, Any]
"""Fields of `model.sampling.SamplingSettings`; {"temperature": 0} is greedy."""

GREEDY: Sampling = {"temperature": 0.0}


class System:
    """One engine with a model loaded, in a process of its own.

    Args:
        work: the directory of `benchmarks.gpt2.Files`.
        threads: to compute with.
        options: of this system, from `benchmarks.systems.SYSTEMS`.
    """

    settings: dict[str, Any]
    """How it runs, for the record: versions, and what `tune` chose."""

    def __init__(self, work: Path, threads: int, **options: Any) -> None:
        raise NotImplementedError

    def tune(self, prompts: list[Tokens], new: int) -> None:
        """Try the settings that may be better for prompts like these, and keep the best.

        Args:
            new: tokens of each; 1 is prefill.
        """

    def generate(self, prompts: list[Tokens], new: int, samplings: Sequence[Sampling]) -> None:
        """Continue all prompts at once by `new` tokens each.

        Args:
            samplings: one of each prompt. A system that cannot mix them takes all prompts
                greedily, which is the least work.
        """
        raise NotImplementedError

    def prefill(self, prompt: Tokens) -> None:
        """Compute the prompt, and the most probable next token."""
        self.generate([prompt], 1, [GREEDY])

    def classify(self, texts: list[Tokens], batch: int, by_length: bool) -> list[list[float]]:
        """Label probabilities of each text.

        Args:
            batch: texts in one padded batch, where a system pads.
            by_length: whether texts of one length go together, where a system pads.
        """
        raise NotImplementedError

    def greedy(self, prompt: Tokens, new: int) -> Tokens:
        """The continuation by the most probable token at each place."""
        raise NotImplementedError

    def top(self, prompt: Tokens, k: int) -> list[tuple[int, float]]:
        """The k most probable next tokens, the best first, with their log-probabilities."""
        raise NotImplementedError
