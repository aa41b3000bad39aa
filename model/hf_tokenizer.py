"""A Hugging Face byte-level tokenizer as a tiktoken encoding.

Their files say which pairs are merged, in which order; tiktoken knows ids only, and merges first
whatever has the lowest id. The two agree when each merge's id is larger than the one before, as in
GPT-2's vocabulary and in all that `tokenizers` trains. That is checked; other files are refused.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer, byte_of_character

_WHOLE, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_VOCAB, _MERGES, _ADDED = "vocab.json", "merges.txt", "added_tokens.json"

_PLAIN_BPE = {
    "type": ("BPE",),
    "dropout": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
"""Settings of `tokenizer.json` and the values with which its merges are tiktoken's."""


def tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """The files of `directory` that say how text is encoded; `tokenizer.json` wins if both exist.

    Raises:
        CheckpointError: there are none.
    """
    settings = (directory / _SETTINGS,) if (directory / _SETTINGS).is_file() else ()
    if (directory / _WHOLE).is_file():
        return (directory / _WHOLE, *settings)
    if (directory / _VOCAB).is_file() and (directory / _MERGES).is_file():
        added = (directory / _ADDED,) if (directory / _ADDED).is_file() else ()
        return (directory / _VOCAB, directory / _MERGES, *added, *settings)
    raise CheckpointError(
        f"{directory}: has no tokenizer; {_WHOLE}, or {_VOCAB} and {_MERGES}, must be there"
    )


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face directory; its special tokens are never encoded from text.

    Raises:
        CheckpointError: a file is missing or malformed, or encodes in a way that tiktoken cannot;
            names the file and what is not supported.
    """
    files = tokenizer_files(directory)
    if files[-1].name == _SETTINGS:
        settings = read_json(files[-1])
        for name in ("add_prefix_space", "add_bos_token"):
            if settings.get(name):
                raise CheckpointError(f"{files[-1]}: {name} is true; only false is supported")
    if files[0].name == _WHOLE:
        return _from_whole(files[0])
    added = read_json(directory / _ADDED) if directory / _ADDED in files else {}
    lines = files[1].read_text(encoding="utf-8").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return tokenizer_of_merges(files[0], read_json(files[0]), pairs, added, GPT2_PATTERN)


def _from_whole(path: Path) -> Tokenizer:
    whole = read_json(path)
    model = whole.get("model")
    if not isinstance(model, dict) or "vocab" not in model or "merges" not in model:
        raise CheckpointError(f"{path}: has no model with a vocab and merges")
    for name, allowed in _PLAIN_BPE.items():
        if model.get(name) not in allowed:
            raise CheckpointError(
                f"{path}: model.{name} is {model.get(name)!r}; it must be {allowed[-1]!r}"
            )
    if whole.get("normalizer") is not None:
        raise CheckpointError(f"{path}: has a normalizer; GPT-2 has none")
    if not _adds_nothing(whole.get("post_processor")):
        raise CheckpointError(
            f"{path}: post_processor {json.dumps(whole['post_processor'])[:120]} adds tokens to "
            "each text; GPT-2's does not"
        )
    added = {}
    for token in whole.get("added_tokens") or []:
        if not token.get("special"):
            raise CheckpointError(
                f"{path}: added token {token.get('content')!r} is not special; "
                "text is encoded by merges alone here"
            )
        added[token["content"]] = token["id"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    pattern = _pattern(whole.get("pre_tokenizer"), path)
    return tokenizer_of_merges(path, model["vocab"], pairs, added, pattern)


def _adds_nothing(post_processor: Any) -> bool:
    """Whether a text's tokens stay as they are; transformers 5 writes an empty template."""
    match post_processor:
        case None | {"type": "ByteLevel"}:
            return True
        case {"type": "TemplateProcessing", "single": [{"Sequence": _}]}:
            return True
    return False


def _pattern(pre_tokenizer: Any, path: Path) -> str:
    """The regular expression that cuts text into pieces: GPT-2's, or one that is spelt out."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, **rest}:
            if rest.get("use_regex", True):
                return GPT2_PATTERN
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
        f"{path}: pre_tokenizer {json.dumps(pre_tokenizer)[:120]} is not supported; "
        "it must be GPT-2's ByteLevel without add_prefix_space, or a Split by Regex before it"
    )


def tokenizer_of_merges(
    path: Path,
    vocabulary: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    special_tokens: Mapping[str, int],
    pattern: str,
) -> Tokenizer:
    """Ids by bytes, after the check that their order is the order of the merges.

    Args:
        path: of the file that the rest was read from, for errors.
        vocabulary: ids by token, written as GPT-2's files do.
        merges: pairs of tokens, in order.
        special_tokens: ids of tokens that text never encodes to.
        pattern: cuts text into pieces.

    Raises:
        CheckpointError: tiktoken cannot encode so; says why.
    """
    special = dict(special_tokens)
    if END_OF_TEXT in vocabulary:
        special.setdefault(END_OF_TEXT, vocabulary[END_OF_TEXT])
    if END_OF_TEXT not in special:
        raise CheckpointError(f"{path}: has no {END_OF_TEXT} token")
    to_byte = byte_of_character()
    known: dict[str, int] = {}
    for character, byte in to_byte.items():
        if character not in vocabulary:
            raise CheckpointError(f"{path}: has no token for the byte {byte}")
        known[character] = vocabulary[character]
    last = -1
    for pair in merges:
        token = "".join(pair)
        if len(pair) != 2 or not known.keys() >= set(pair) or token not in vocabulary:
            raise CheckpointError(
                f"{path}: the merge {' '.join(pair)!r} is no pair of earlier tokens that makes one"
            )
        if vocabulary[token] <= last:
            raise CheckpointError(
                f"{path}: the merge {' '.join(pair)!r} makes token {vocabulary[token]} after token "
                f"{last}; only vocabularies whose ids rise with the merges are supported"
            )
        last = known[token] = vocabulary[token]
    never = vocabulary.keys() - known.keys() - special.keys()
    if never:
        raise CheckpointError(f"{path}: no merge makes the token {min(never)!r}")
    if sorted([*known.values(), *special.values()]) != list(range(len(known) + len(special))):
        raise CheckpointError(f"{path}: its token ids are not 0, 1, 2… without a gap")
    ranks = {bytes(map(to_byte.__getitem__, token)): rank for token, rank in known.items()}
    return Tokenizer(ranks, pattern, special)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: it cannot be read or is something else; names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object")
    return value
