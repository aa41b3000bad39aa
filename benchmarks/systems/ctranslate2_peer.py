"""CTranslate2 in int8, converted from the Hugging Face directory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.converters import TransformersConverter

from benchmarks.gpt2 import Files, made
from benchmarks.systems.base import Sampling, System, Tokens


class CTranslate2(System):
    """Prompts of different lengths cost it a step for each token beyond the shortest, so a batch
    gets as many prompts of the mean length instead: the least work that can be called the same."""

    def __init__(self, work: Path, threads: int) -> None:
        files = Files(work)
        made(files.ctranslate2, lambda out: _convert(files.hugging_face, out))
        self._texts = _vocabulary(files.hugging_face)
        self._generator = ctranslate2.Generator(
            str(files.ctranslate2), device="cpu", compute_type="int8", intra_threads=threads
        )
        self.settings = {"weights": "int8", "ctranslate2": ctranslate2.__version__}

    def generate(self, prompts: list[Tokens], new: int, samplings: Sequence[Sampling]) -> None:
        self._generate(_same_length(prompts), new)

    def greedy(self, prompt: Tokens, new: int) -> Tokens:
        tokens: Tokens = self._generate([prompt], new)[0].sequences_ids[0]
        return tokens

    def top(self, prompt: Tokens, k: int) -> list[tuple[int, float]]:
        (result,) = self._generate([prompt], 1, return_logits_vocab=True)
        logits = np.array(result.logits[0][0]).reshape(-1)[: len(self._texts)]
        logprobs = logits - np.logaddexp.reduce(logits)
        return [(int(i), float(logprobs[i])) for i in np.argsort(-logprobs)[:k]]

    def _generate(self, prompts: list[Tokens], new: int, **options: bool) -> list[Any]:
        results = self._generator.generate_batch(
            [[self._texts[token] for token in prompt] for prompt in prompts],
            max_length=new,
            min_length=new,
            sampling_topk=1,
            beam_size=1,
            include_prompt_in_result=False,  # computes the prompt at once
            **options,
        )
        assert all(len(result.sequences_ids[0]) == new for result in results)
        return list(results)


def _vocabulary(hugging_face: Path) -> list[str]:
    """The names of all tokens, in their order."""
    whole = hugging_face / "tokenizer.json"
    if whole.exists():
        found = json.loads(whole.read_text(encoding="utf-8"))
        names = dict(found["model"]["vocab"])
        names |= {added["content"]: added["id"] for added in found["added_tokens"]}
    else:
        names = json.loads((hugging_face / "vocab.json").read_text(encoding="utf-8"))
    return sorted(names, key=names.__getitem__)


def _convert(hugging_face: Path, out: Path) -> None:
    TransformersConverter(str(hugging_face)).convert(str(out), quantization="int8")


def _same_length(prompts: list[Tokens]) -> list[Tokens]:
    """As many prompts of the same tokens altogether, all of the mean length."""
    mean = sum(map(len, prompts)) // len(prompts)
    tokens = [token for prompt in prompts for token in prompt]
    return [tokens[i * mean : (i + 1) * mean] for i in range(len(prompts))]
