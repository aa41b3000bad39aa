"""SmolLM2-135M-Instruct with 8-bit weights and with its file's 4-bit ones, against itself in fp32.

    PENWRIGHT_DATA=DIR pytest -m weights tests/parity/test_smollm2_int8.py

It takes four minutes on one core, nearly all of it for fp32.
"""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model.checkpoint import Base, load_base
from model.cpu.quantize import quantize, weights_of
from model.frozen import Held
from model.transformer import Transformer
from tests.parity.families import our_logits
from tests.parity.test_smollm2 import (
    ASKED,
    LEAST,
    NEW,
    TEXTS,
    greedy_tokens,
    prompts_of,
)

pytestmark = [pytest.mark.weights, pytest.mark.timeout(900)]

NEAR = 0.1
"""A margin between two logits within which 8 bits may decide otherwise than fp32."""


MORE_ASKED = (
    "Count from 1 to 20.",
    "List the days of the week.",
    "List the months of the year in order.",
    "Write the alphabet.",
    "What is the capital of France?",
    "What is the capital of Japan, and what is it known for?",
    "Name the planets of the solar system in order.",
    "How many legs does a spider have?",
    "Write a Python function that adds two numbers.",
    "Write a short poem about the sea.",
    "Who wrote Romeo and Juliet?",
    "Explain what photosynthesis is.",
    "What is the largest ocean on Earth?",
    "Give me a recipe for pancakes.",
    "Translate 'thank you' into Spanish.",
    "Write a thank-you note to a teacher.",
    "What is a prime number?",
    "Who was the first president of the United States?",
    "Describe a rainbow.",
    "What do bees make?",
    "Write a sentence with the word 'river'.",
    "What colour is the sky on a clear day?",
    "Tell me a joke.",
    "What is gravity?",
)
MORE_TEXTS = (
    "1, 2, 3, 4, 5, 6, 7, 8,",
    "Monday, Tuesday, Wednesday,",
    "January, February, March,",
    "a b c d e f g h i",
    "The capital of France is",
    "def fibonacci(n):\n    if n <= 1:\n        return n\n    return",
    "for i in range(10):\n    print(",
    "The Declaration of Independence was signed in",
    "To be, or not to be, that is",
    "The quick brown fox jumps over",
    "2, 4, 6, 8, 10,",
    "import os\nimport sys\n\ndef main():\n",
    "We hold these truths to be self-evident, that",
    "Water is made of hydrogen and",
    "Our Father, who art in heaven,",
    "SELECT * FROM users WHERE",
    "The mitochondria is the powerhouse of",
    "<html>\n<head>\n<title>",
    "Once upon a time, in a small village,",
    "Twinkle, twinkle, little star,",
)


@pytest.fixture(scope="module")
def base(smollm2_file: Path) -> Base:
    return load_base(smollm2_file)


@pytest.fixture(scope="module", params=["int8", "int4, int8"])
def quantized(request: pytest.FixtureRequest, smollm2_file: Path) -> Transformer:
    held: Held | None = None if request.param == "int8" else "packed"
    model: Transformer = load_base(smollm2_file, held=held).model
    quantize(model)
    assert weights_of(model) == request.param
    return model


def test_greedy_text(base: Base, quantized: Transformer) -> None:
    """24 tokens of each prompt, up to the first place where fp32 has two that are nearly equal:
    the same for 17 prompts in 20. (In 8 bits it was 56 of 64, as for llama.cpp with q8_0, which has
    the same groups; as the file has them 58, where llama.cpp had 54.)"""
    prompts = prompts_of(base, ASKED + MORE_ASKED, TEXTS + MORE_TEXTS)
    compared, same = 0, 0
    for prompt, found in zip(prompts, greedy_tokens(base, prompts), strict=True):
        tokens, places = prompt + found[:-1], slice(len(prompt) - 1, None)
        best, second = our_logits(base.model, tokens)[places].topk(2).values.unbind(-1)
        near = (best - second < NEAR).nonzero()
        count = int(near[0]) if len(near) else NEW
        ours = our_logits(quantized, tokens)[places].argmax(-1)
        compared += count
        same += ours[:count].tolist() == found[:count]
    assert compared >= LEAST
    assert same >= 0.85 * len(prompts)


def test_perplexity(base: Base, quantized: Transformer, real_data: Path) -> None:
    """Of a part of WikiText-2's validation text: fp32 takes minutes for all of it."""
    path = real_data / "eval" / "wikitext-2-valid.txt"
    tokens = base.tokenizer.encode(path.read_text(encoding="utf-8")[:40_000])
    windows = torch.tensor(tokens[: 16 * 512]).view(16, 512)

    @torch.inference_mode()
    def loss(model: Transformer) -> float:
        logits = (model.logits(model(window[None]))[0, :-1] for window in windows)
        parts = [
            F.cross_entropy(of_window, window[1:])
            for of_window, window in zip(logits, windows, strict=True)
        ]
        return float(sum(parts)) / len(parts)

    ratio = math.exp(loss(quantized) - loss(base.model))
    assert 0.99 < ratio < 1.01
