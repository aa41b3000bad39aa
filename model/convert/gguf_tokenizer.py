"""Byte-pair tokenizers in GGUF.

GGUF holds tokens and merges, but not the expression that cuts text into pieces: it names one of
those that llama.cpp knows. GPT-2's is "gpt-2". Ours with single digits (`model.tokenizer.PATTERN`)
is not among them, and need not be: it cuts at the same places, and between digits besides. Where no
token of the vocabulary reaches from one digit into the next, no merge can, and the longer piece
gives the same tokens. That is checked, over all numerals of Unicode; vocabularies that were learnt
with that pattern have it.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from model.convert.bpe_files import merges, written_tokens
from model.errors import CheckpointError, UsageError
from model.hf_tokenizer import tokenizer_of_merges
from model.tokenizer import GPT2_PATTERN, PATTERN, Tokenizer

_PRE = "gpt-2"
_PATTERN_FIELD = "penwright.tokenizer.pattern"
_NORMAL, _UNUSED, _CONTROL = 1, 5, 3
_PADDING = "[PAD{}]"


def add_tokenizer(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Give a `gguf.GGUFWriter` the tokenizer.

    Args:
        vocab_size: of the network; tokens that only fill it up are marked as unused.

    Raises:
        UsageError: llama.cpp would cut text in other places, or a token is made by no merge.
    """
    check_pattern(tokenizer)
    tokens = written_tokens(tokenizer)
    kinds = [_NORMAL] * len(tokens)
    for token in tokenizer.special_tokens.values():
        kinds[token] = _CONTROL
    padding = vocab_size - len(tokens)
    end = tokenizer.end_token
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_PRE)
    writer.add_token_list([*tokens, *(_PADDING.format(i) for i in range(padding))])
    writer.add_token_types([*kinds, *[_UNUSED] * padding])
    writer.add_token_merges([" ".join(pair) for pair in merges(tokenizer)])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_string(_PATTERN_FIELD, tokenizer.pattern)


def read_tokenizer(fields: dict[str, Any], source: Path) -> Tokenizer:
    """The tokenizer in a file's fields.

    Raises:
        CheckpointError: it is of another kind, or a field is missing or contradicts another.
    """
    wanted = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _PRE}
    for name, value in wanted.items():
        if fields.get(name) != value:
            raise CheckpointError(
                f"{source}: {name} is {fields.get(name)!r}; only {value!r} is supported"
            )
    tokens: Sequence[str] = fields.get("tokenizer.ggml.tokens") or []
    lines: Sequence[str] = fields.get("tokenizer.ggml.merges") or []
    kinds: Sequence[int] = fields.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        raise CheckpointError(f"{source}: has {len(tokens)} tokens, but {len(kinds)} token types")
    special = {t: i for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == 3}
    normal = {t: i for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == 1}
    pairs = [line.split(" ") for line in lines]
    pattern = fields.get(_PATTERN_FIELD, GPT2_PATTERN)
    tokenizer = tokenizer_of_merges(source, normal, pairs, special, pattern)
    try:
        check_pattern(tokenizer)
    except UsageError as error:
        raise CheckpointError(f"{source}: {_PATTERN_FIELD}: {error}") from error
    return tokenizer


def check_pattern(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that GPT-2's pattern would change.

    Raises:
        UsageError: says why.
    """
    if tokenizer.pattern == GPT2_PATTERN:
        return
    if tokenizer.pattern != PATTERN:
        raise UsageError(
            "--format gguf: llama.cpp has no name for the tokenizer's pattern "
            f"{tokenizer.pattern}; GPT-2's can be exported, and the same with single digits"
        )
    for token, rank in tokenizer.ranks.items():
        if _crosses(token):
            raise UsageError(
                f"--format gguf: the tokenizer's token {rank}, {token!r}, could reach across two "
                "digits that its pattern keeps apart; llama.cpp, which does not, would use it there"
            )


def _crosses(token: bytes) -> bool:
    """Whether a boundary between two numerals can lie within `token`."""
    whole, starts, ends = _numerals()

    def may_end(part: bytes) -> bool:
        return part in ends or any(
            part[i:] in whole and may_end(part[:i]) for i in range(1, len(part))
        )

    def may_start(part: bytes) -> bool:
        return part in starts or any(
            part[:i] in whole and may_start(part[i:]) for i in range(1, len(part))
        )

    return any(may_end(token[:i]) and may_start(token[i:]) for i in range(1, len(token)))


@cache
def _numerals() -> tuple[frozenset[bytes], frozenset[bytes], frozenset[bytes]]:
    r"""UTF-8 of every character of \p{N}; its beginnings; its ends, also after a space."""

    def found() -> Iterable[bytes]:
        for code in range(0x110000):
            if unicodedata.category(chr(code)).startswith("N"):
                yield chr(code).encode()

    whole = frozenset(found())
    starts = frozenset(c[:i] for c in whole for i in range(1, len(c) + 1))
    ends = frozenset(c[i:] for c in whole for i in range(len(c)))
    return whole, starts, ends | {b" " + c for c in whole}
