"""Our engine, through its public interface, in its own thread-less form: `Engine.run`."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpt2 import Files
from benchmarks.systems.base import GREEDY, Sampling, System, Tokens
from model.checkpoint import load_adapter, load_base
from model.cpu import quantize as eight_bit
from model.engine.engine import Engine
from model.engine.request import (
    Classified,
    Classify,
    Event,
    Failed,
    Finished,
    Generate,
    Request,
    Text,
    TokenLogprob,
)
from model.engine.settings import EngineSettings
from model.frozen import Held
from model.sampling import SamplingSettings


class Penwright(System):
    """One engine with the base and adapters, as its defaults are but for `slots`, and without
    speculation: every system makes a step for each token."""

    def __init__(
        self,
        work: Path,
        threads: int,
        *,
        quantize: bool = True,
        held: Held | None = "packed",
        slots: int | None = None,
        adapters: Sequence[str] | None = None,
    ) -> None:
        """`adapters` are names; None is the usual three, those of them that there are."""
        torch.set_num_threads(threads)
        files = Files(work)
        base = load_base(files.penwright, held=held if quantize else None)
        if quantize:
            eight_bit.quantize(base.model)
        if adapters is None:
            usual = (files.head, files.instruct, files.classify)
            adapters = [path.name for path in usual if path.exists()]
        loaded = {name: load_adapter(files.adapter(name), base) for name in adapters}
        settings = EngineSettings(speculate=False)
        if slots is not None:
            settings = replace(settings, slots=slots)
        self._engine = Engine(base, loaded, settings, _nowhere)
        self._numbers = itertools.count()
        self.settings = {
            "weights": eight_bit.weights_of(base.model),
            "engine": vars(settings),
            "torch": torch.__version__,
        }

    def generate(self, prompts: list[Tokens], new: int, samplings: Sequence[Sampling]) -> None:
        self.mixed(
            [
                {"tokens": prompt, "new": new, "sampling": sampling}
                for prompt, sampling in zip(prompts, samplings, strict=True)
            ]
        )

    def classify(self, texts: list[Tokens], batch: int, by_length: bool) -> list[list[float]]:
        del batch, by_length  # nothing is padded
        return self.mixed([{"tokens": text, "adapter": "head", "classify": True} for text in texts])

    def mixed(self, requests: list[dict[str, Any]]) -> list[list[float]]:
        """Answer requests of any kind together.

        Args:
            requests: each has `tokens`, and may have `adapter`; with `classify` a label is wanted,
                else `new` tokens drawn by `sampling`.

        Returns:
            the probabilities of those that want a label, in order
        """
        answers = self._run([self._request(**request) for request in requests])
        return [list(a.probabilities) for a in answers if isinstance(a, Classified)]

    def greedy(self, prompt: Tokens, new: int) -> Tokens:
        return [entry.token for entry in self._logprobs(prompt, new, k=0)]

    def top(self, prompt: Tokens, k: int) -> list[tuple[int, float]]:
        (entry,) = self._logprobs(prompt, 1, k)
        return [(token, logprob) for token, _, logprob in entry.top]

    def _logprobs(self, prompt: Tokens, new: int, k: int) -> list[TokenLogprob]:
        sampling = SamplingSettings(**GREEDY)
        want = Generate(new, sampling, ignore_eos=True, logprobs=k)
        (events,) = self._engine.run([Request(self._id(), tuple(prompt), want)])
        return [entry for event in events if isinstance(event, Text) for entry in event.logprobs]

    def _request(
        self,
        tokens: Tokens,
        adapter: str | None = None,
        classify: bool = False,
        new: int = 0,
        sampling: Sampling = GREEDY,
    ) -> Request:
        want: Generate | Classify = Classify()
        if not classify:
            want = Generate(new, SamplingSettings(**sampling), ignore_eos=True)
        return Request(self._id(), tuple(tokens), want, adapter)

    def _run(self, requests: list[Request]) -> list[Event]:
        """The last event of each request: all must have done what was asked."""
        last = [events[-1] for events in self._engine.run(requests)]
        for request, event in zip(requests, last, strict=True):
            if isinstance(event, Failed):
                raise RuntimeError(f"a request failed: {event.message}")
            if isinstance(event, Finished):
                assert isinstance(request.want, Generate)
                assert event.completion_tokens == request.want.max_new_tokens
                assert event.cached_tokens == 0, "prompts must not repeat"
        return last

    def _id(self) -> str:
        return str(next(self._numbers))


def _nowhere(events: list[tuple[str, Event]]) -> None:
    """`run` returns the events."""
