"""`transformers`: `generate` with a left-padded batch, and `…ForSequenceClassification`."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpt2 import Files
from benchmarks.systems.base import Sampling, System, Tokens

transformers: Any = importlib.import_module("transformers")
"""Untyped."""


class HuggingFace(System):
    """Its defaults are its best here: SDPA attention, a growing cache, no `torch.compile`."""

    def __init__(self, work: Path, threads: int, *, dtype: str) -> None:
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._files = Files(work)
        self._dtype = getattr(torch, dtype)
        path = self._files.hugging_face
        auto = transformers.AutoModelForCausalLM
        self._model = auto.from_pretrained(path, dtype=self._dtype).eval()
        self._pad = int(self._model.config.pad_token_id or 0)
        # Without an end token, every row runs to the full length.
        self._model.generation_config.eos_token_id = None
        self._classifier: Any = None
        self.settings = {
            "weights": dtype,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "attention": self._model.config._attn_implementation,
        }

    def generate(self, prompts: list[Tokens], new: int, samplings: Sequence[Sampling]) -> None:
        self._generate(prompts, new)

    def greedy(self, prompt: Tokens, new: int) -> Tokens:
        tokens: Tokens = self._generate([prompt], new)[0, len(prompt) :].tolist()
        return tokens

    @torch.inference_mode()
    def prefill(self, prompt: Tokens) -> None:
        self._last_logits(prompt).argmax()

    @torch.inference_mode()
    def top(self, prompt: Tokens, k: int) -> list[tuple[int, float]]:
        best = self._last_logits(prompt).float().log_softmax(-1).topk(k)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    @torch.inference_mode()
    def classify(self, texts: list[Tokens], batch: int, by_length: bool) -> list[list[float]]:
        if self._classifier is None:
            auto = transformers.AutoModelForSequenceClassification
            path = self._files.hugging_face_classifier
            self._classifier = auto.from_pretrained(path, dtype=self._dtype).eval()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]) if by_length else 0)
        out: list[list[float]] = [[] for _ in texts]
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            tokens, mask = self._pad_batch([texts[i] for i in rows], left=False)
            logits = self._classifier(tokens, attention_mask=mask, use_cache=False).logits
            for row, values in zip(rows, logits.float().softmax(-1).tolist(), strict=True):
                out[row] = values
        return out

    @torch.inference_mode()
    def _generate(self, prompts: list[Tokens], new: int) -> Tensor:
        tokens, mask = self._pad_batch(prompts, left=True)
        out: Tensor = self._model.generate(
            tokens, attention_mask=mask, max_new_tokens=new, do_sample=False
        )
        assert out.shape[1] == tokens.shape[1] + new
        return out

    def _last_logits(self, prompt: Tokens) -> Tensor:
        """(vocab,)"""
        logits: Tensor = self._model(torch.tensor([prompt]), logits_to_keep=1).logits[0, -1]
        return logits

    def _pad_batch(self, rows: list[Tokens], *, left: bool) -> tuple[Tensor, Tensor]:
        """(rows, longest) of tokens, and of 1 where they are real"""
        tokens = torch.full((len(rows), max(map(len, rows))), self._pad)
        mask = torch.zeros_like(tokens)
        for i, row in enumerate(rows):
            place = slice(-len(row), None) if left else slice(0, len(row))
            tokens[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return tokens, mask
