r"""The regular expressions that cut text into the pieces within which pairs are merged.

tiktoken and `tokenizers` read these expressions alike, though their engines differ: \p{L}, \p{N}
and \s hold the same characters in both, and every character of a text is in some piece. Of others
that is not known.
"""

import json
from collections.abc import Mapping
from typing import Any

from model.errors import CheckpointError

GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""How GPT-2 cuts text."""

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""The same with single digits: a number then always has as many tokens as digits, which a small
model learns to copy and compare far more easily than GPT-2's irregular groups."""

SMOLLM_PATTERN = (
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"""
)
"""How SmolLM and SmolLM2 cut text: digits are taken out first, and what lies between them is cut as
GPT-2 does, so that blanks before a digit stay together. Their files say it in two steps. The second
step's numerals are those of a newer Unicode in `tokenizers` 0.23, which for 13 characters, assigned
in 2025 (U+11DE0 to U+11DE9, U+16FF4 to U+16FF6), gives other tokens than this."""

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts text: numbers in groups of three, from the left."""

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2, Qwen2.5 and Qwen3 cut text: the same with single digits."""

KNOWN_PATTERNS = frozenset({GPT2_PATTERN, PATTERN, SMOLLM_PATTERN, LLAMA3_PATTERN, QWEN2_PATTERN})

_SHOWN = 120


def pattern_of(pre_tokenizer: Any, source: object) -> str:
    """The expression that stands for the `pre_tokenizer` of a `tokenizer.json`.

    Raises:
        CheckpointError: it is none of the forms that are read here; names `source` and shows it.
    """
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, **rest} if _uses_regex(rest):
            return GPT2_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, **rest},
            ],
        } if _uses_regex(rest):
            return SMOLLM_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": str(pattern)},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    raise CheckpointError(
        f"{source}: pre_tokenizer {json.dumps(pre_tokenizer)[:_SHOWN]} is not supported; it must "
        "be GPT-2's ByteLevel without add_prefix_space, the same after Digits, or a ByteLevel "
        "without use_regex after a Split by Regex"
    )


def _uses_regex(byte_level: Mapping[Any, Any]) -> bool:
    return byte_level.get("use_regex", True) is True


def pre_tokenizer_of(pattern: str) -> dict[str, Any]:
    """The `pre_tokenizer` for an expression: GPT-2's own by its name, any other spelt out."""
    to_bytes = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": pattern == GPT2_PATTERN,
    }
    if pattern == GPT2_PATTERN:
        return to_bytes
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, to_bytes]}
