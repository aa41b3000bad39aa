"""The tokenizer of a Hugging Face directory.

`tokenizer.json` says how text is encoded; older directories have `vocab.json` and `merges.txt`
instead. What the special tokens are for is spread over `tokenizer_config.json`, `config.json` and
`generation_config.json`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.json_files import field, read_json, shown
from model.tokenizer.builder import build
from model.tokenizer.merges import AddedToken
from model.tokenizer.patterns import GPT2_PATTERN, QWEN2_PATTERN
from model.tokenizer.special import well_known
from model.tokenizer.tokenizer import Tokenizer
from model.tokenizer.tokenizer_json import add_token, pair_of, read_tokenizer_json
from model.tokenizer.vocabulary import Vocabulary

_WHOLE, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_VOCAB, _MERGES, _ADDED = "vocab.json", "merges.txt", "added_tokens.json"
_CONFIG, _GENERATION = "config.json", "generation_config.json"

_NAMED = ("bos_token", "eos_token", "pad_token")

_CLASSES: dict[str | None, tuple[str, bool]] = {
    None: (GPT2_PATTERN, False),
    "GPT2Tokenizer": (GPT2_PATTERN, False),
    "GPT2TokenizerFast": (GPT2_PATTERN, False),
    "Qwen2Tokenizer": (QWEN2_PATTERN, True),
    "Qwen2TokenizerFast": (QWEN2_PATTERN, True),
}
"""Pattern, and whether there is NFC, of the classes that read `vocab.json` and `merges.txt`."""


def tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """The files of `directory` that say how text is encoded and what the special tokens are for,
    but `config.json`; `tokenizer.json` wins over `vocab.json` and `merges.txt`.

    Raises:
        CheckpointError: there are none.
    """
    further = tuple(directory / n for n in (_SETTINGS, _GENERATION) if (directory / n).is_file())
    if (directory / _WHOLE).is_file():
        return (directory / _WHOLE, *further)
    if (directory / _VOCAB).is_file() and (directory / _MERGES).is_file():
        added = (directory / _ADDED,) if (directory / _ADDED).is_file() else ()
        return (directory / _VOCAB, directory / _MERGES, *added, *further)
    raise CheckpointError(
        f"{directory}: has no tokenizer; {_WHOLE}, or {_VOCAB} and {_MERGES}, must be there"
    )


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face directory; its special tokens are never encoded from text.

    Raises:
        CheckpointError: a file is missing or malformed, or encodes in a way that is not supported;
            names the file and what it is.
    """
    path = tokenizer_files(directory)[0]
    settings = _read(directory / _SETTINGS)
    for name in ("add_prefix_space", "add_eos_token"):
        if field(settings, name, (bool, type(None)), directory / _SETTINGS, None):
            raise CheckpointError(
                f"{directory / _SETTINGS}: {name} is true; only false is supported"
            )
    found = read_tokenizer_json(path) if path.name == _WHOLE else _two_files(directory, settings)
    return _with_roles(directory, settings, found, path)


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _two_files(directory: Path, settings: Mapping[str, Any]) -> Vocabulary:
    """What `vocab.json` and `merges.txt` say, and their class by its name."""
    kind = field(settings, "tokenizer_class", (str, type(None)), directory / _SETTINGS, None)
    if kind not in _CLASSES:
        raise CheckpointError(
            f"{directory / _SETTINGS}: tokenizer_class is {shown(kind)}; without {_WHOLE} it must "
            f"be one of {', '.join(filter(None, _CLASSES))}"
        )
    pattern, nfc = _CLASSES[kind]
    vocabulary = read_json(directory / _VOCAB)
    for text in vocabulary:
        field(vocabulary, text, int, directory / _VOCAB)
    added, special = _added_tokens(directory, settings)
    path = directory / _MERGES
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    lines = [line.removesuffix("\r") for line in lines]
    merges = [pair_of(line, path) for line in lines if line and not line.startswith("#version")]
    return Vocabulary(vocabulary, merges, pattern, nfc, added=added, special=special)


def _added_tokens(
    directory: Path, settings: Mapping[str, Any]
) -> tuple[dict[str, AddedToken], dict[str, int]]:
    """What `added_tokens.json` and `tokenizer_config.json` add to `vocab.json`: text and special
    tokens, all of them special of which nothing else is said."""
    ids = _read(directory / _ADDED)
    flags = {text: {"special": True} for text in ids}
    for text in ids:
        field(ids, text, int, directory / _ADDED)
    where = f"{directory / _SETTINGS}: added_tokens_decoder"
    decoder = field(settings, "added_tokens_decoder", dict, directory / _SETTINGS, {})
    for number in decoder:
        token = field(decoder, number, dict, where)
        text = field(token, "content", str, where)
        if (
            str(
                ids.setdefault(
                    text, int(number) if number.isdecimal() and len(number) < 10 else None
                )
            )
            != number
        ):
            raise CheckpointError(f"{where}: the id of {shown(text)} is not {shown(number)}")
        flags[text] = token
    added: dict[str, AddedToken] = {}
    special: dict[str, int] = {}
    for text, token in flags.items():
        add_token(text, ids[text], token, added, special, where)
    return added, special


def _with_roles(
    directory: Path, settings: Mapping[str, Any], found: Vocabulary, path: Path
) -> Tokenizer:
    """The tokenizer, after all files were asked what its special tokens are for."""
    known = found.every
    ids = {**found.special, **well_known(known)}
    roles: dict[str, int] = {}
    for role in _NAMED:
        text = _text_of(settings, role, directory)
        if text is not None:
            if text not in known:
                raise CheckpointError(
                    f"{directory / _SETTINGS}: {role} is {shown(text)}, which is no token"
                )
            roles[role] = ids[text] = known[text]
    where = directory / _SETTINGS
    adds = field(settings, "add_bos_token", (bool, type(None)), where, None)
    if found.beginning is not None:
        beginning = ids.get(found.beginning)
        if beginning is None or roles.get("bos_token", beginning) != beginning or adds is False:
            raise CheckpointError(
                f"{path}: post_processor puts {shown(found.beginning)} before each text, but it is "
                f"not the bos_token of {where}, or add_bos_token is false there"
            )
        roles["bos_token"], adds = beginning, True
    ends = [roles["eos_token"]] if "eos_token" in roles else []
    for name in (_CONFIG, _GENERATION):
        ends += _ends(directory / name, known, ids)
    return build(
        found,
        path,
        ids,
        beginning=roles.get("bos_token"),
        adds_beginning=adds is True,
        ends=ends,
        pad=roles.get("pad_token"),
    )


def named_tokens(directory: Path) -> dict[str, str | None]:
    """The texts that `tokenizer_config.json` gives to the names of tokens; None for none.

    Raises:
        CheckpointError: one is no text; names the file.
    """
    settings = _read(directory / _SETTINGS)
    return {name: _text_of(settings, name, directory) for name in _NAMED}


def _text_of(settings: Mapping[str, Any], role: str, directory: Path) -> str | None:
    """The token that `tokenizer_config.json` names, as a text or as an object with one."""
    match settings.get(role):
        case None:
            return None
        case str(text) | {"content": str(text)}:
            return text
    raise CheckpointError(
        f"{directory / _SETTINGS}: {role} is {shown(settings[role])}; it must be a text, an object "
        "with the text as its content, or null"
    )


def _ends(path: Path, known: Mapping[str, int], special: Mapping[str, int]) -> list[int]:
    """The end-of-sequence tokens of a configuration. One outside the vocabulary is a default that
    nobody adapted to a smaller vocabulary."""
    value = field(_read(path), "eos_token_id", (int, list, type(None)), path, None)
    texts = {token: text for text, token in known.items()}
    ends = []
    for token in value if isinstance(value, list) else [] if value is None else [value]:
        if type(token) is not int or token < 0:
            raise CheckpointError(f"{path}: eos_token_id is {shown(value)}; ids are not negative")
        if token in texts:
            if texts[token] not in special:
                raise CheckpointError(
                    f"{path}: eos_token_id is {shown(value)}, but {token} is an ordinary token, "
                    f"{shown(texts[token])}"
                )
            ends.append(token)
    return ends
