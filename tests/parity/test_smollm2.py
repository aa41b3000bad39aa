"""SmolLM2-135M-Instruct, read from GGUF, says what `transformers` and llama.cpp say with it, also
after an export.

    pytest -m weights tests/parity/test_smollm2.py

It takes two minutes and 3 GB of memory.
"""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from model.checkpoint import Base, load_base
from model.convert.gguf_write import write_gguf
from model.engine.engine import Engine
from model.engine.request import Generate, Request, Text
from model.engine.settings import EngineSettings
from model.prompts import Message, encode
from model.sampling import SamplingSettings
from tests.parity.exported import export
from tests.parity.families import assert_close, best_tokens, our_logits, peer_logits
from training.cli import main

NEW = 24
LEAST = 300
"""Tokens that must be compared in all."""
pytestmark = [pytest.mark.weights, pytest.mark.timeout(900)]

ASKED = (
    "Name a bird.",
    "What is the capital of Norway?",
    "Write a haiku about rain.",
    "Explain in one sentence why the sky is blue.",
    "Count from 7 to 12.",
    "Translate 'good morning' into French.",
    "Is 91 a prime number?",
    "Give me three names for a cat.",
    "Schreibe einen Satz über Berge.",
    "def add(a, b): what does this begin? 👍🏽",
)
TEXTS = (
    "Once upon a time, there was",
    "The three primary colours are",
    "In 1969, the first people who walked on the Moon",
    "import numpy as np\n\ndef mean(values):\n    ",
    "Q: What is 12 times 12?\nA:",
    "La capitale de la France est",
    "1, 1, 2, 3, 5, 8,",
    "Water boils at",
    "<p>Dear Sir or Madam,</p>\n<p>",
    "naïve café, Straße, 日本語",
)


@pytest.fixture(scope="module")
def base(smollm2_file: Path) -> Base:
    return load_base(smollm2_file)


@pytest.fixture(scope="module")
def prompts(base: Base) -> list[list[int]]:
    return prompts_of(base, ASKED, TEXTS)


@pytest.fixture(scope="module")
def answers(base: Base, prompts: list[list[int]]) -> list[list[int]]:
    return greedy_tokens(base, prompts)


def prompts_of(base: Base, asked: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
    """Some as chats, some as they are."""
    assert base.template is not None
    chats = [
        encode(base.template.render([Message("user", text)]), base.tokenizer).ids for text in asked
    ]
    return [*chats, *(base.tokenizer.encode(text) for text in texts)]


def greedy_tokens(base: Base, prompts: list[list[int]]) -> list[list[int]]:
    """The next tokens of all prompts at once, from the engine."""
    want = Generate(NEW, SamplingSettings(temperature=0.0), ignore_eos=True, logprobs=0)
    requests = [Request(str(i), tuple(prompt), want) for i, prompt in enumerate(prompts)]
    engine = Engine(base, {}, EngineSettings(cache_mb=512), deliver=lambda events: None)
    found = []
    for events in engine.run(requests):
        texts = [event for event in events if isinstance(event, Text)]
        found.append([value.token for text in texts for value in text.logprobs])
    assert all(len(tokens) == NEW for tokens in found)
    return found


class TestTransformers:
    @pytest.fixture(scope="class")
    @classmethod
    def peer(cls, smollm2_file: Path) -> Iterator[Any]:
        yield transformers.AutoModelForCausalLM.from_pretrained(
            smollm2_file.parent, gguf_file=smollm2_file.name, dtype=torch.float32
        ).eval()
        gc.collect()

    def test_greedy_text(
        self, peer: Any, prompts: list[list[int]], answers: list[list[int]]
    ) -> None:
        compared = 0
        for prompt, found in zip(prompts, answers, strict=True):
            logits = peer_logits(peer, prompt + found[:-1])
            best, clear = best_tokens(logits[len(prompt) - 1 :])
            assert torch.equal(torch.tensor(found)[clear], best[clear])
            compared += int(clear.sum())
        assert compared >= LEAST

    def test_logits(self, peer: Any, base: Base) -> None:
        text = " ".join([*ASKED, *TEXTS]) * 2
        tokens = base.tokenizer.encode(text)[:300]
        assert len(tokens) == 300
        assert_close(our_logits(base.model, tokens), peer_logits(peer, tokens))


def test_the_greedy_text_of_llama_cpp(
    llama_cpp: Any,
    base: Base,
    prompts: list[list[int]],
    answers: list[list[int]],
    tmp_path: Path,
) -> None:
    """And its logits are ours, with weights in fp32: what it multiplies 4-bit weights by it would
    first round to 8 bits."""
    write_gguf(tmp_path / "fp32.gguf", base, "fp32")
    f32 = int(gguf.GGMLQuantizationType.F32)
    settings = {"type_k": f32, "type_v": f32, "n_threads": 1, "n_threads_batch": 1}
    llama = llama_cpp.Llama(
        str(tmp_path / "fp32.gguf"), n_ctx=128, logits_all=True, verbose=False, **settings
    )
    compared = 0
    for prompt, found in zip(prompts, answers, strict=True):
        llama.reset()
        llama.eval(prompt + found[:-1])
        logits = torch.tensor(llama.scores[: len(prompt) + NEW - 1])
        assert_close(our_logits(base.model, prompt + found[:-1]), logits)
        best, clear = best_tokens(logits[len(prompt) - 1 :])
        assert torch.equal(torch.tensor(found)[clear], best[clear])
        compared += int(clear.sum())
    llama.close()
    (tmp_path / "fp32.gguf").unlink()  # half a gigabyte
    assert compared >= LEAST


def test_the_greedy_text_of_an_export(
    base: Base,
    prompts: list[list[int]],
    answers: list[list[int]],
    smollm2_file: Path,
    tmp_path: Path,
) -> None:
    """Imported and exported to Hugging Face's files, it answers chats in `transformers` with the
    same tokens."""
    assert main(["import", str(smollm2_file), "--out", str(tmp_path / "base")]) == 0
    out = export(tmp_path / "base", tmp_path / "hf", "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    peer = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    assert isinstance(peer, transformers.LlamaForCausalLM)
    for asked, prompt, found in zip(ASKED[:3], prompts, answers, strict=False):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        assert ids[0].tolist() == prompt
        said = peer.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False
        )[0, len(prompt) :].tolist()
        assert said == found[: len(said)]
        assert len(said) == NEW or said[-1] in base.stop_tokens
    (out / "model.safetensors").unlink()  # half a gigabyte
