"""Byte-pair tokenizers in GGUF, read and written.

GGUF holds tokens and merges, but not the expression that cuts text into pieces: it names one of
those that llama.cpp knows, and what else that name stands for is in llama.cpp alone. Ours with
single digits (`model.tokenizer.PATTERN`) has no name, and needs none: it cuts at the same places as
GPT-2's, and between digits besides. Where no token of the vocabulary reaches from one digit into
the next, no merge can, and the longer piece gives the same tokens. That is checked, over all
numerals of Unicode; vocabularies that were learnt with that pattern have it.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from model.convert.bpe_files import byte_pairs
from model.errors import CheckpointError, UsageError
from model.json_files import field, list_field, shown
from model.tokenizer import GPT2_PATTERN, PATTERN, Tokenizer
from model.tokenizer.builder import build
from model.tokenizer.merges import AddedToken
from model.tokenizer.patterns import LLAMA3_PATTERN, QWEN2_PATTERN, SMOLLM_PATTERN
from model.tokenizer.special import SpecialTokens, well_known
from model.tokenizer.tokenizer_json import pair_of
from model.tokenizer.vocabulary import Vocabulary

_PRE = "gpt-2"
_PATTERN_FIELD = "penwright.tokenizer.pattern"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_PADDING = "[PAD{}]"


@dataclass(frozen=True)
class _Kind:
    """What a name in `tokenizer.ggml.pre` stands for."""

    pattern: str
    nfc: bool = False
    """As the model was trained; llama.cpp itself leaves the text as it is."""
    ignore_merges: bool = False
    adds_beginning: bool = False
    """Where `add_bos_token` does not say."""


_LLAMA3 = _Kind(LLAMA3_PATTERN, ignore_merges=True, adds_beginning=True)
_KINDS = {
    _PRE: _Kind(GPT2_PATTERN),
    "smollm": _Kind(SMOLLM_PATTERN),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _Kind(QWEN2_PATTERN, nfc=True),
}


def add_tokenizer(
    writer: Any,
    tokenizer: Tokenizer,
    vocab_size: int,
    named: Mapping[str, str | None] | None = None,
) -> None:
    """Give a `gguf.GGUFWriter` the tokenizer.

    Args:
        vocab_size: of the network; tokens that only fill it up are marked as unused.
        named: what a chat template calls `bos_token` and `eos_token`, if it needs them.

    Raises:
        UsageError: llama.cpp would cut text in other places, or the vocabulary has no form there.
    """
    name = _name_of(tokenizer)
    pairs = byte_pairs(tokenizer)
    tokens = {token: (text, _NORMAL) for text, token in pairs.tokens.items()}
    tokens |= {token.id: (text, _USER_DEFINED) for text, token in pairs.added.items()}
    tokens |= {token: (text, _CONTROL) for text, token in tokenizer.special.ids.items()}
    unused = [token for token in range(vocab_size) if token not in tokens]
    tokens |= {token: (_PADDING.format(i), _UNUSED) for i, token in enumerate(unused)}
    in_order = [tokens[token] for token in range(vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list([text for text, _ in in_order])
    writer.add_token_types([type_ for _, type_ in in_order])
    writer.add_token_merges([" ".join(pair) for pair in pairs.merges])
    _add_roles(writer, tokenizer.special, named or {})
    if name == _PRE:
        writer.add_string(_PATTERN_FIELD, tokenizer.pattern)


def _add_roles(writer: Any, special: SpecialTokens, named: Mapping[str, str | None]) -> None:
    beginning, end = special.beginning, special.end_of_document
    if "bos_token" in named:
        bos = named["bos_token"]
        beginning = None if bos is None else special.ids[bos]
    if (eos := named.get("eos_token")) is not None:
        end = special.ids[eos]
    if beginning is not None:
        writer.add_bos_token_id(beginning)
    writer.add_eos_token_id(end)
    if special.end_of_turn is not None:
        writer.add_eot_token_id(special.end_of_turn)
    others = set(special.stop) - {end, special.end_of_turn}
    if len(others) > 1:
        raise UsageError(
            f"--format gguf: {len(special.stop)} tokens end a text, {sorted(special.stop)}; GGUF "
            "has fields for three"
        )
    for token in others:
        writer.add_eom_token_id(token)
    writer.add_pad_token_id(special.pad)
    writer.add_add_bos_token(special.adds_beginning)


def _name_of(tokenizer: Tokenizer) -> str:
    """What `tokenizer.ggml.pre` calls the way in which a tokenizer cuts and merges.

    Raises:
        UsageError: llama.cpp has no name for it; says why.
    """
    pairs = tokenizer.pairs
    if pairs is None and tokenizer.pattern in (GPT2_PATTERN, PATTERN):
        check_pattern(tokenizer)
        return _PRE
    for name, kind in _KINDS.items():
        if kind.pattern != tokenizer.pattern:
            continue
        nfc = pairs is not None and pairs.nfc
        # Where ids tell the merges, a piece that is a token is made whole in either way.
        ignores = kind.ignore_merges if pairs is None else pairs.ignore_merges
        if (nfc, ignores) != (kind.nfc, kind.ignore_merges):
            raise UsageError(
                f"--format gguf: the tokenizer cuts text as {name}, but with "
                f"{_words(nfc, ignores)} in place of {_words(kind.nfc, kind.ignore_merges)}"
            )
        return name
    raise _no_name(tokenizer.pattern)


def _words(nfc: bool, ignores_merges: bool) -> str:
    return f"{'NFC' if nfc else 'no NFC'} and ignore_merges {str(ignores_merges).lower()}"


def _no_name(pattern: str) -> UsageError:
    return UsageError(
        f"--format gguf: llama.cpp has no name for the tokenizer's pattern {pattern}; those of "
        f"{', '.join(_KINDS)} can be exported, and GPT-2's with single digits"
    )


def read_tokenizer(fields: Mapping[str, Any], source: Path) -> Tokenizer:
    """The tokenizer in a file's fields.

    Raises:
        CheckpointError: it is of another kind, or a field is missing, of another type, or
            contradicts another; names `source` and the field.
    """
    kind = _kind(fields, source)
    by_type = _tokens_by_type(fields, source)
    # Those who write the format leave empty lists out.
    bytes_alone = all(len(text) == 1 for text in by_type[_NORMAL])
    no_merges: dict[str, Any] = {"tokenizer.ggml.merges": []} if bytes_alone else {}
    lines = list_field({**no_merges, **fields}, "tokenizer.ggml.merges", str, source)
    named = well_known(by_type[_NORMAL] | by_type[_USER_DEFINED])
    vocabulary = Vocabulary(
        by_type[_NORMAL],
        [pair_of(line, source) for line in lines],
        kind.pattern,
        kind.nfc,
        kind.ignore_merges,
        added={t: AddedToken(i, normalized=False) for t, i in by_type[_USER_DEFINED].items()},
        special=by_type[_CONTROL] | by_type[_UNKNOWN] | named,
    )
    tokenizer = _with_roles(fields, vocabulary, kind, source)
    try:
        if _PATTERN_FIELD in fields:
            check_pattern(tokenizer)
    except UsageError as error:
        raise CheckpointError(f"{source}: {_PATTERN_FIELD}: {error}") from error
    return tokenizer


def named_token(fields: Mapping[str, Any], name: str) -> str | None:
    """The text of a file's token of that name, "bos" or "eos"; its tokenizer can be read."""
    found = fields.get(f"tokenizer.ggml.{name}_token_id")
    first = found[0] if isinstance(found, list) and found else found
    return fields["tokenizer.ggml.tokens"][first] if type(first) is int else None


def _tokens_by_type(fields: Mapping[str, Any], source: Path) -> dict[int, dict[str, int]]:
    """Ids of the tokens by their texts, for each type; without those that are not used."""
    tokens = list_field(fields, "tokenizer.ggml.tokens", str, source)
    types = list_field(fields, "tokenizer.ggml.token_type", int, source, [_NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise CheckpointError(f"{source}: has {len(tokens)} tokens, but {len(types)} token types")
    found: dict[int, dict[str, int]] = {
        type_: {} for type_ in (_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED)
    }
    for token, (text, type_) in enumerate(zip(tokens, types, strict=True)):
        if type_ == _UNUSED:
            continue
        if type_ not in found:
            raise CheckpointError(
                f"{source}: tokenizer.ggml.token_type of {shown(text)} is {type_}; only "
                f"{_NORMAL} to {_UNUSED} are supported"
            )
        if any(text in others for others in found.values()):
            raise CheckpointError(f"{source}: tokenizer.ggml.tokens has {shown(text)} twice")
        found[type_][text] = token
    return found


def _kind(fields: Mapping[str, Any], source: Path) -> _Kind:
    model = field(fields, "tokenizer.ggml.model", str, source)
    if model != "gpt2":
        raise CheckpointError(
            f"{source}: tokenizer.ggml.model is {shown(model)}; only 'gpt2', byte-level BPE, is "
            "supported ('llama' is SentencePiece)"
        )
    pre = field(fields, "tokenizer.ggml.pre", str, source)
    if _PATTERN_FIELD in fields:
        if pre != _PRE:
            raise CheckpointError(
                f"{source}: tokenizer.ggml.pre is {shown(pre)}; with {_PATTERN_FIELD} it must be "
                f"{_PRE!r}"
            )
        return _Kind(field(fields, _PATTERN_FIELD, str, source))
    if pre not in _KINDS:
        raise CheckpointError(
            f"{source}: tokenizer.ggml.pre is {shown(pre)}; it must be one of {', '.join(_KINDS)}"
        )
    return _KINDS[pre]


def _with_roles(
    fields: Mapping[str, Any], vocabulary: Vocabulary, kind: _Kind, source: Path
) -> Tokenizer:
    """The tokenizer, its special tokens in the roles that the file gives them."""
    special = set(vocabulary.special.values())

    def role(name: str) -> list[int]:
        found = field(fields, f"tokenizer.ggml.{name}", (int, list), source, [])
        tokens = found if isinstance(found, list) else [found]
        for token in tokens:
            if type(token) is not int or token not in special:
                raise CheckpointError(
                    f"{source}: tokenizer.ggml.{name} is {shown(found)}, which is no special token"
                )
        return tokens

    def one(name: str) -> int | None:
        return next(iter(role(name)), None)

    if field(fields, "tokenizer.ggml.add_eos_token", bool, source, False):
        raise CheckpointError(
            f"{source}: tokenizer.ggml.add_eos_token is true; only false is supported"
        )
    return build(
        vocabulary,
        source,
        vocabulary.special,
        beginning=one("bos_token_id"),
        adds_beginning=field(
            fields, "tokenizer.ggml.add_bos_token", bool, source, kind.adds_beginning
        ),
        ends=[*role("eos_token_id"), *role("eom_token_id")],
        end_of_turn=one("eot_token_id"),
        pad=one("padding_token_id"),
    )


def check_pattern(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that GPT-2's pattern would change.

    Raises:
        UsageError: says why.
    """
    if tokenizer.pattern == GPT2_PATTERN:
        return
    if tokenizer.pattern != PATTERN:
        raise _no_name(tokenizer.pattern)
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
