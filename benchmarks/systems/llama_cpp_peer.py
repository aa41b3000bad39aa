"""llama.cpp through its C interface (`llama_decode`), without the Python class around it.

All prompts are computed in one call, and then each step decodes one token of every sequence in one
call. Tokens are chosen by numpy's argmax, which is quicker than llama.cpp's own samplers.
"""

import ctypes
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp as package
import numpy as np
from llama_cpp import llama_cpp as c
from numpy.typing import NDArray

from benchmarks.gpt2 import Files
from benchmarks.systems.base import Sampling, System, Tokens
from benchmarks.systems.gguf_files import write_gguf

_TUNE_TRIES = 3


class LlamaCpp(System):
    """A context for each kind of work, with the better of its settings: see `tune`."""

    def __init__(self, work: Path, threads: int, *, kind: str) -> None:
        path = write_gguf(Files(work), kind)
        # Its log goes where Python's objects are gone at exit: drop it.
        self._quiet = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(self._quiet, ctypes.c_void_p(0))
        c.llama_backend_init()
        self._model = c.llama_model_load_from_file(
            str(path).encode(), c.llama_model_default_params()
        )
        assert self._model, f"{path} cannot be loaded"
        self._vocab: int = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self._threads = threads
        self._contexts: dict[str, _Context] = {}
        self.settings = {
            "weights": kind,
            "llama-cpp-python": package.__version__,
            "cpu": c.llama_print_system_info().decode().strip(" |"),
        }

    def tune(self, prompts: list[Tokens], new: int) -> None:
        """Flash attention on or off, one cache for all sequences or one for each."""
        work, best = _work(prompts, new), float("inf")
        for flash, unified in itertools.product((False, True), (False, True)[: len(prompts)]):
            context = _Context(self, prompts, flash=flash, unified=unified)
            tries = _TUNE_TRIES if new > 1 and len(prompts) == 1 else 1  # the short ones are noisy
            seconds = min(_seconds(context, prompts, new) for _ in range(tries))
            if seconds < best:
                best = seconds
                self._contexts[work] = context
                self.settings[work] = f"flash_attn={flash} kv_unified={unified}"

    def generate(self, prompts: list[Tokens], new: int, samplings: Sequence[Sampling]) -> None:
        self._context(prompts, max(new, 2)).generate(prompts, new)

    def prefill(self, prompt: Tokens) -> None:
        self._context([prompt], 1).generate([prompt], 1)

    def greedy(self, prompt: Tokens, new: int) -> Tokens:
        return [int(row[0]) for row in self._context([prompt], new).generate([prompt], new)]

    def top(self, prompt: Tokens, k: int) -> list[tuple[int, float]]:
        logits = self._context([prompt], 1).prompt_logits([prompt])[0].astype(np.float64)
        logprobs = logits - np.logaddexp.reduce(logits)
        return [(int(i), float(logprobs[i])) for i in np.argsort(-logprobs)[:k]]

    def _context(self, prompts: list[Tokens], new: int) -> "_Context":
        work = _work(prompts, new)
        if work not in self._contexts:
            self._contexts[work] = _Context(self, prompts, flash=False, unified=False)
        return self._contexts[work]

    def new_context(self, **fields: Any) -> Any:
        params = c.llama_context_default_params()
        params.n_threads = params.n_threads_batch = self._threads
        params.no_perf = True
        for name, value in fields.items():
            setattr(params, name, value)
        context = c.llama_init_from_model(self._model, params)
        assert context, f"llama.cpp refuses {fields}"
        return context

    @property
    def vocab(self) -> int:
        return self._vocab


class _Context:
    """A llama.cpp context with room for a full context of each sequence."""

    def __init__(
        self, system: LlamaCpp, prompts: list[Tokens], *, flash: bool, unified: bool
    ) -> None:
        self._vocab = system.vocab
        each = 1024 * -(-(max(map(len, prompts)) + 128) // 1024)
        self._context = system.new_context(
            n_ctx=each * len(prompts),
            n_seq_max=len(prompts),
            n_batch=4096,
            flash_attn_type=int(flash),
            kv_unified=unified,
        )
        self._batch = c.llama_batch_init(4096, 0, 1)

    def __del__(self) -> None:
        c.llama_batch_free(self._batch)
        c.llama_free(self._context)

    def generate(self, prompts: list[Tokens], new: int) -> list[NDArray[np.int64]]:
        """The tokens of each step, (sequences,)"""
        chosen = [self.prompt_logits(prompts).argmax(1)]
        for step in range(new - 1):
            for row, prompt in enumerate(prompts):
                self._set(row, int(chosen[-1][row]), len(prompt) + step, row, logits=True)
            chosen.append(self._decode(len(prompts), outputs=len(prompts)).argmax(1))
        return chosen

    def prompt_logits(self, prompts: list[Tokens]) -> NDArray[np.float32]:
        """Forget what was; (sequences, vocab) at the end of each prompt."""
        c.llama_memory_clear(c.llama_get_memory(self._context), False)
        count = 0
        for row, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                self._set(count, token, position, row, logits=position == len(prompt) - 1)
                count += 1
        return self._decode(count, outputs=len(prompts))

    def _set(self, index: int, token: int, position: int, row: int, *, logits: bool) -> None:
        batch = self._batch
        batch.token[index] = token
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = row
        batch.logits[index] = logits

    def _decode(self, count: int, outputs: int) -> NDArray[np.float32]:
        self._batch.n_tokens = count
        code = c.llama_decode(self._context, self._batch)
        assert code == 0, f"llama_decode gives {code}"
        return np.ctypeslib.as_array(c.llama_get_logits(self._context), (outputs, self._vocab))


def _work(prompts: list[Tokens], new: int) -> str:
    """What has a context of its own: so many sequences, or a prompt of this length alone."""
    return f"{len(prompts)} sequences" if new > 1 else f"prefill of {len(prompts[0])}"


def _seconds(context: _Context, prompts: list[Tokens], new: int) -> float:
    started = time.perf_counter()
    context.generate(prompts, new)
    return time.perf_counter() - started
