"""Golden outputs: what a checkpoint must answer, written on its card when it was saved.

For a few fixed inputs the card holds the five most probable next tokens with their
log-probabilities, or the label probabilities, as the saved files give them in fp32. Whoever loads
the checkpoint computes them again, on his machine and in his precision, and is not ready if they
differ by more than that precision explains: wrong weights, a broken kernel or another tokenizer
show here, before the first request does.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from model.classifier import ClassifierHead
from model.errors import CheckpointError
from model.lora import LoRA
from model.prompts import Alpaca, Template, encode
from model.tokenizer import Tokenizer
from model.transformer import Transformer

_TEXTS = (
    "Once upon a time there was a little",
    "The capital of the country is",
    "Free entry! Text WIN to 80086 now to claim your £1000 prize.",
    "Ok, see you at home for dinner then",
)
_INSTRUCTIONS = (
    ("Rewrite the sentence in the past tense.", "She walks to school."),
    ("Name a synonym of 'happy'.", ""),
)
_TOP = 5

BOUNDS = {torch.float32: 2e-3, torch.bfloat16: 0.5, torch.float16: 0.05}
"""Largest difference of a log-probability or probability that a precision explains. In bf16 a logit
of 16 to 32 is rounded to eighths, and so is what it is computed from."""
INT8_BOUND, INT4_BOUND = 0.5, 2.0
"""The same for 8-bit weights, and for those that were given 4 bits: in checkpoints/scratch, of 14
million, 1.15 was seen. Of another network it would be more than that."""


@torch.inference_mode()
def compute(
    model: Transformer,
    tokenizer: Tokenizer,
    head: ClassifierHead | None,
    lora: LoRA | None,
    task: Literal["generate", "classify", "instruct"],
    template: Template | None = None,
) -> list[dict[str, Any]]:
    """The golden outputs of a network, for its card.

    Args:
        template: of the instructions that a network for `instruct` is asked; by default Alpaca's.
    """
    entries: list[dict[str, Any]] = [{"input": text} for text in _TEXTS]
    if task == "instruct":
        entries = [{"instruction": text, "input": given} for text, given in _INSTRUCTIONS]
    for entry in entries:
        hidden = _hidden(model, _tokens(entry, tokenizer, template), lora)
        if head is not None:
            entry["probabilities"] = _rounded(_probabilities(head, hidden))
        else:
            top = _log_probabilities(model, hidden).topk(min(_TOP, model.config.vocab_size))
            entry |= {"tokens": top.indices.tolist(), "logprobs": _rounded(top.values)}
    return entries


@torch.inference_mode()
def verify(
    name: str,
    expected: object,
    model: Transformer,
    tokenizer: Tokenizer,
    head: ClassifierHead | None = None,
    lora: LoRA | None = None,
    bound: float | None = None,
    template: Template | None = None,
) -> float:
    """Compute the golden outputs again, in the precision in which the network is held.

    Args:
        name: of the checkpoint, for the error.
        expected: what its card holds, whatever that is.
        bound: largest allowed difference; by default that of the network's precision.
        template: of instructions, as for `compute`.

    Returns:
        the largest difference

    Raises:
        CheckpointError: an output differs by more than the bound, or is malformed, or there is
            none.
    """
    if not expected:
        raise CheckpointError(f"{name}: its card has no golden outputs")
    if not isinstance(expected, list):
        raise CheckpointError(f"{name}: the golden outputs of its card are not a list")
    labels = None if head is None else len(head.labels.names)
    for place, entry in enumerate(expected):
        fault = _fault(entry, model.config.vocab_size, labels)
        if fault is not None:
            raise CheckpointError(f"{name}: golden output {place} of its card {fault}")
    limit = bound
    if limit is None:
        rounded = {8: INT8_BOUND, 4: INT4_BOUND}
        limit = rounded.get(model.quantized, BOUNDS[model.dtype])
    worst = 0.0
    for entry in expected:
        hidden = _hidden(model, _tokens(entry, tokenizer, template), lora)
        if head is not None:
            values, goal = _probabilities(head, hidden), entry["probabilities"]
        else:
            values = _log_probabilities(model, hidden)[entry["tokens"]]
            goal = entry["logprobs"]
        difference = float((values.cpu() - torch.tensor(goal)).abs().max())
        # Not a number compares as false: it must not pass.
        if not difference <= limit:
            raise CheckpointError(
                f"{name}: its answer to {_asked(entry)[:40]!r} differs from its card's by "
                f"{difference:.4g}; at most {limit:g} is allowed"
            )
        worst = max(worst, difference)
    return worst


def _fault(entry: object, vocab_size: int, labels: int | None) -> str | None:
    """What is wrong with an entry of a card, which anybody may have written; None if nothing is.

    Args:
        labels: how many the network's head has; None for a network without a head.
    """
    if not isinstance(entry, dict):
        return "is not an object"
    if not isinstance(entry.get("instruction", ""), str) or not isinstance(entry.get("input"), str):
        return "has no input text"
    if not _asked(entry):
        return "has no input text"
    if labels is not None:
        return _fault_of_numbers(entry, "probabilities", labels)
    tokens = entry.get("tokens")
    if not isinstance(tokens, list) or not tokens:
        return "has no list of tokens"
    if not all(type(token) is int and 0 <= token < vocab_size for token in tokens):
        return f"has tokens that are no ids of the vocabulary, 0 to {vocab_size - 1}"
    return _fault_of_numbers(entry, "logprobs", len(tokens))


def _fault_of_numbers(entry: dict[str, Any], field: str, count: int) -> str | None:
    values = entry.get(field)
    if not isinstance(values, list) or len(values) != count:
        return f"has no list of {count} {field}"
    # Numbers as they are written; not so large that fp32 cannot hold them.
    if not all(type(value) in (int, float) and abs(value) < 1e30 for value in values):
        return f"has {field} that are no numbers"
    return None


def _asked(entry: dict[str, Any]) -> str:
    """What an entry asks, to show it."""
    text: str = entry.get("instruction") or entry["input"]
    return text


def _tokens(entry: dict[str, Any], tokenizer: Tokenizer, template: Template | None) -> list[int]:
    """An instruction in its template; before cards had instructions apart, and for other tasks, a
    text as it stands."""
    if "instruction" not in entry:
        return tokenizer.encode_prompt(entry["input"])
    template = template or Alpaca()
    messages = template.instruction(entry["instruction"], entry["input"])
    return encode(template.render(messages), tokenizer).ids


def _hidden(model: Transformer, tokens: list[int], lora: LoRA | None) -> Tensor:
    """(1, tokens, n_embd)"""
    batch = torch.tensor([tokens[-model.config.context_length :]], device=model.device)
    hidden: Tensor = model(batch, adapters=lora)
    return hidden


def _probabilities(head: ClassifierHead, hidden: Tensor) -> Tensor:
    """(labels,)"""
    return head.probabilities(head.pool(hidden, torch.tensor([hidden.shape[1]])))[0]


def _log_probabilities(model: Transformer, hidden: Tensor) -> Tensor:
    """(vocab,) fp32, of what comes next"""
    return torch.log_softmax(model.logits(hidden[:, -1])[0].float(), dim=-1)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
