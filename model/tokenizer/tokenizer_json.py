"""The file `tokenizer.json` of Hugging Face's `tokenizers`: byte-level BPE, and what may be around
it. Whatever would give a text other tokens than are given here is refused by its name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.json_files import field, list_field, read_json, shown
from model.tokenizer.merges import AddedToken
from model.tokenizer.patterns import pattern_of
from model.tokenizer.vocabulary import Vocabulary

_BPE: dict[str, tuple[Any, ...]] = {
    "type": (None, "BPE"),
    "byte_fallback": (None, False),
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}
"""Settings of the model, and the values with which it is byte-level BPE; the last is the usual."""
_PLAIN = ("single_word", "lstrip", "rstrip")


def read_tokenizer_json(path: Path) -> Vocabulary:
    """Read a `tokenizer.json`.

    Raises:
        CheckpointError: it is malformed, of another kind (SentencePiece's Unigram, WordPiece), or
            does to texts what is not done here; names the file and what it is.
    """
    whole = read_json(path)
    model = field(whole, "model", dict, path)
    if "vocab" not in model:
        raise CheckpointError(f"{path}: model has no vocab")
    for name, allowed in _BPE.items():
        value = model.get(name)
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise CheckpointError(
                f"{path}: model.{name} is {shown(value)}; it must be {allowed[-1]!r}: only "
                "byte-level BPE is supported, neither SentencePiece's vocabularies nor WordPiece"
            )
    vocabulary = field(model, "vocab", dict, f"{path}: model")
    for token, id_ in vocabulary.items():
        if type(id_) is not int:
            raise CheckpointError(f"{path}: model.vocab gives {shown(token)} the id {shown(id_)}")
    added, special = _added_tokens(whole, path)
    _check_decoder(whole.get("decoder"), path)
    return Vocabulary(
        tokens=vocabulary,
        merges=[pair_of(item, path) for item in field(model, "merges", list, f"{path}: model")],
        pattern=pattern_of(whole.get("pre_tokenizer"), path),
        nfc=_nfc(whole.get("normalizer"), path),
        ignore_merges=field(model, "ignore_merges", (bool, type(None)), path, None) is True,
        added=added,
        special=special,
        beginning=_beginning(whole.get("post_processor"), path),
    )


def pair_of(item: Any, source: object) -> tuple[str, str]:
    """A merge, written as two texts or as one with a blank between them.

    Raises:
        CheckpointError: it is something else.
    """
    parts = item.split(" ") if isinstance(item, str) else item
    match parts:
        case [str(left), str(right)] if left and right:
            return left, right
    raise CheckpointError(f"{source}: the merge {shown(item)} is no pair of tokens")


def _added_tokens(
    whole: Mapping[str, Any], path: Path
) -> tuple[dict[str, AddedToken], dict[str, int]]:
    added: dict[str, AddedToken] = {}
    special: dict[str, int] = {}
    # `null` is what older versions wrote for none.
    for token in (
        [] if whole.get("added_tokens") is None else list_field(whole, "added_tokens", dict, path)
    ):
        where = f"{path}: added_tokens"
        text, id_ = field(token, "content", str, where), field(token, "id", int, where)
        if text in added or text in special:
            raise CheckpointError(f"{where}: {shown(text)} is there twice")
        add_token(text, id_, token, added, special, where)
    return added, special


def add_token(
    text: str,
    id_: int,
    flags: Mapping[str, Any],
    added: dict[str, AddedToken],
    special: dict[str, int],
    where: str,
) -> None:
    """Put an added token where it belongs, by what is said of it.

    Args:
        flags: `special`, `normalized` and the others, as `tokenizers` writes them.

    Raises:
        CheckpointError: a flag is no bool, or text around the token would be swallowed with it.
    """
    if field(flags, "special", bool, where, False):
        special[text] = id_
        return
    for name in _PLAIN:
        if field(flags, name, bool, where, False):
            raise CheckpointError(
                f"{where}: {name} of {shown(text)} is true; of a token that is not special only "
                "false is supported"
            )
    added[text] = AddedToken(id_, field(flags, "normalized", bool, where, True))


def _nfc(normalizer: Any, path: Path) -> bool:
    match normalizer:
        case None | {"type": "Sequence", "normalizers": []}:
            return False
        case {"type": "NFC"} | {"type": "Sequence", "normalizers": [{"type": "NFC"}]}:
            return True
    raise CheckpointError(
        f"{path}: normalizer {json.dumps(normalizer)[:120]} is not supported; only NFC is"
    )


def _check_decoder(decoder: Any, path: Path) -> None:
    match decoder:
        case (
            None | {"type": "ByteLevel"} | {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}
        ):
            return
    raise CheckpointError(
        f"{path}: decoder {json.dumps(decoder)[:120]} is not supported; only ByteLevel is"
    )


def _beginning(post_processor: Any, path: Path) -> str | None:
    """The token that the post-processor puts before every text."""
    match post_processor:
        case None | {"type": "ByteLevel"}:
            return None
        case {"type": "Sequence", "processors": list(processors)}:
            found = [text for one in processors if (text := _beginning(one, path)) is not None]
            if len(found) < 2:
                return found[0] if found else None
        # transformers 5 writes a template that adds nothing.
        case {"type": "TemplateProcessing", "single": [{"Sequence": _}]}:
            return None
        case {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": str(text)}}, {"Sequence": _}],
        }:
            return text
    raise CheckpointError(
        f"{path}: post_processor {json.dumps(post_processor)[:240]} is not supported; it may add "
        "nothing but one token before each text"
    )
