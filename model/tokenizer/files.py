"""A checkpoint's tokenizer file: tiktoken's table of ranks, or a `tokenizer.json`.

    tokenizer.tiktoken   a line of base64 bytes and rank for each token, by rank; `config.json` has
                         the pattern and the special tokens
    tokenizer.json       as `tokenizers` reads it; `config.json` has the special tokens' roles

Nothing is downloaded when one of them is loaded.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.json_files import field, list_field, shown
from model.tokenizer.merges import BytePairs
from model.tokenizer.patterns import pre_tokenizer_of
from model.tokenizer.special import SpecialTokens
from model.tokenizer.tokenizer_json import read_tokenizer_json

TIKTOKEN, TOKENIZERS = "tokenizer.tiktoken", "tokenizer.json"

_SETTINGS = "its settings"
_TIKTOKEN_FIELDS = {"pattern", "special_tokens", "roles", "missing_bytes"}
_TOKENIZERS_FIELDS = {"kind", "special_tokens", "roles"}


def tiktoken_content(ranks: Mapping[bytes, int]) -> bytes:
    """tiktoken's format: a line of base64 bytes and rank for each token, by rank."""
    lines = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in lines)


def read_tiktoken(path: Path, settings: Mapping[str, Any]) -> tuple[dict[bytes, int], str]:
    """The ranks in a file and the pattern in its settings.

    Raises:
        CheckpointError: a line is no token and rank, a token or rank is there twice, a single byte
            is missing that the settings do not name, or a setting is wrong; does not name the file.
    """
    _check_fields(settings, _TIKTOKEN_FIELDS)
    pattern = field(settings, "pattern", str, _SETTINGS)
    if not pattern:
        raise CheckpointError(f"{_SETTINGS}: pattern is empty")
    ranks: dict[bytes, int] = {}
    used: set[int] = set()
    for number, line in enumerate(_content(path).splitlines(), 1):
        token, rank = _token_and_rank(line, number)
        if token in ranks or rank in used:
            raise CheckpointError(f"line {number} has a token or a rank that was there before")
        ranks[token] = rank
        used.add(rank)
    declared = list_field(settings, "missing_bytes", int, _SETTINGS, [])
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing != declared:
        raise CheckpointError(
            f"it has no token for the bytes {shown(missing)}, but {_SETTINGS} name "
            f"{shown(declared)}"
        )
    return ranks, pattern


def _token_and_rank(line: bytes, number: int) -> tuple[bytes, int]:
    parts = line.split(b" ")
    try:
        if len(parts) == 2 and parts[1].isdigit() and len(parts[1]) < 10:
            token = base64.b64decode(parts[0], validate=True)
            if token:
                return token, int(parts[1])
    except ValueError:
        pass
    raise CheckpointError(f"line {number}, {shown(line)}, is no token in base64 and its rank")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from error


def _check_fields(settings: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise CheckpointError(f"{_SETTINGS}: unknown fields {shown(unknown)}")


def tokenizers_content(pairs: BytePairs, special: Mapping[str, int]) -> bytes:
    """A `tokenizer.json` with which `tokenizers` gives the same tokens to the same ids."""
    whole = tokenizer_json(pairs, special)
    return (json.dumps(whole, ensure_ascii=False, indent=1) + "\n").encode()


def tokenizer_json(pairs: BytePairs, special: Mapping[str, int]) -> dict[str, Any]:
    """What a `tokenizer.json` holds; every token is in its vocabulary, under its id."""
    added = [
        *(_added_token(text, t.id, t.normalized, special=False) for text, t in pairs.added.items()),
        *(_added_token(text, token, False, special=True) for text, token in special.items()),
    ]
    vocabulary = {**pairs.tokens, **{token["content"]: token["id"] for token in added}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": {"type": "NFC"} if pairs.nfc else None,
        "pre_tokenizer": pre_tokenizer_of(pairs.pattern),
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pairs.ignore_merges,
            "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            "merges": [list(pair) for pair in pairs.merges],
        },
    }


def _added_token(text: str, token: int, normalized: bool, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {
        "id": token,
        "content": text,
        **flags,
        "normalized": normalized,
        "special": special,
    }


def read_tokenizers(path: Path, settings: Mapping[str, Any], special: SpecialTokens) -> BytePairs:
    """The merges in a `tokenizer.json` that `tokenizers_content` wrote.

    Raises:
        CheckpointError: it cannot be read, or has other special tokens than the settings.
    """
    _check_fields(settings, _TOKENIZERS_FIELDS)
    if settings["kind"] != "tokenizers":
        raise CheckpointError(
            f"{_SETTINGS}: kind is {shown(settings['kind'])}; it must be 'tokenizers'"
        )
    found = read_tokenizer_json(path)
    if found.special != dict(special.ids):
        raise CheckpointError(
            f"its special tokens are {shown(found.special)}, but its settings say "
            f"{shown(dict(special.ids))}"
        )
    return found.pairs(found.special)
