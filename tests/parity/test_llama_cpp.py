"""llama.cpp reads our GGUF files: the same tokens, and the same greedy text.

    pip install 'llama-cpp-python>=0.3.30' && pytest tests/parity/test_llama_cpp.py

It is compiled when it is installed, which takes minutes; without it these tests are skipped.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import Base, load_adapter, load_base
from model.lora import LoRA
from model.prompts import instruction_prompt
from tests.e2e.server import SCRATCH
from training.cli import main

TEXTS = (
    "Once upon a time, in 1984, there were 12,345.67 sheep and 9 dogs.",
    "I'll we've he's don't I'M YOU'RE they'd 's't",
    "a\n\n\nb\t\tc \r\n  d\u00a0e\u2003f\u3000g\u2028i   ",
    "1 22 333 4444 3.14e-10 ½² Ⅷ ٣٤ 三",
    "naïve café Straße Ελληνικά русский עברית हिन्दी 日本語 👍🏽 e\u0301 \ufeff",
    "def f(x: int) -> dict[str, int]:\n    return {'a': x ** 2}  # ok!!\n",
)
PROMPTS = ("Once upon a time", "The king said to his daughter", "In the year 1812,")
_TIE = 0.05
"""Of log-probability: a smaller lead of the best token is a tie, where rounding may decide."""


Load = Callable[..., Any]


@pytest.fixture
def loaded(llama_cpp: Any, tmp_path: Path) -> Iterator[Load]:
    """Function (checkpoint, dtype) that gives the exported checkpoint in llama.cpp."""
    with contextlib.ExitStack() as stack:

        def load(checkpoint: str, dtype: str = "fp32") -> Any:
            path = tmp_path / "model.gguf"
            words = ["--format", "gguf", "--dtype", dtype, "--out", str(path)]
            assert main(["export", str(SCRATCH / checkpoint), *words]) == 0
            threads = {"n_threads": 1, "n_threads_batch": 1}
            llama = llama_cpp.Llama(str(path), n_ctx=512, verbose=False, **threads)
            return stack.enter_context(contextlib.closing(llama))

        yield load


def tokens_of(llama: Any, text: str) -> list[int]:
    tokens: list[int] = llama.tokenize(text.encode(), add_bos=False, special=False)
    return tokens


def greedy(llama: Any, prompt: list[int], new: int) -> list[int]:
    llama.reset()
    found: list[int] = []
    for token in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
        found.append(token)
        if len(found) == new:
            break
    return found


@torch.no_grad()
def assert_greedy(
    base: Base, lora: LoRA | None, prompt: list[int], found: list[int], tie: float
) -> None:
    """Each token is our best, or ties with it."""
    hidden = base.model(torch.tensor([prompt + found[:-1]]), adapters=lora)[0, len(prompt) - 1 :]
    scores = base.model.logits(hidden).log_softmax(-1)
    chosen = scores[range(len(found)), found]
    assert (scores.max(-1).values - chosen).max() <= tie


def test_tokens(loaded: Load) -> None:
    """Of texts that are hard to cut, and of random ones."""
    llama = loaded("base")
    tokenizer = load_base(SCRATCH / "base").tokenizer
    rng = random.Random(1)
    letters = "ab Ab 1290 ½٣é'\n\t.,-…“” "
    texts = [*TEXTS, *("".join(rng.choices(letters, k=30)) for _ in range(300))]
    for text in texts:
        assert tokens_of(llama, text) == tokenizer.encode(text)
    # What a user types is text, and stays text.
    assert tokenizer.end_token not in tokens_of(llama, "a<|endoftext|>b")
    assert llama.token_eos() == tokenizer.end_token


@pytest.mark.parametrize(
    ("dtype", "tie"), [("fp32", 1e-3), ("fp16", _TIE), ("bf16", _TIE), ("q8_0", 0.3)]
)
def test_greedy_text(loaded: Load, dtype: str, tie: float) -> None:
    llama = loaded("base", dtype)
    base = load_base(SCRATCH / "base")
    for text in PROMPTS:
        prompt = base.tokenizer.encode(text)
        assert_greedy(base, None, prompt, greedy(llama, prompt, 24), tie)


def test_an_instruction_follower(loaded: Load) -> None:
    """Its adapter is merged; the chat template makes the prompt that it was trained with."""
    llama = loaded("instruct")
    base = load_base(SCRATCH / "base")
    lora = load_adapter(SCRATCH / "instruct", base).lora
    prompt = base.tokenizer.encode(instruction_prompt("Name a synonym of 'happy'."))
    found = greedy(llama, prompt, 12)
    assert_greedy(base, lora, prompt, found, 1e-3)
    answer = llama.create_chat_completion(
        [{"role": "user", "content": "Name a synonym of 'happy'."}], temperature=0.0, max_tokens=12
    )
    end = base.tokenizer.end_token
    said = found[: found.index(end)] if end in found else found
    assert answer["choices"][0]["message"]["content"] == base.tokenizer.decode(said)
    assert answer["usage"]["prompt_tokens"] == len(prompt)
