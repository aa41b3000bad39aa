"""Our tokenizer in the form in which Hugging Face and GGUF write one.

tiktoken knows the id of each byte string and merges whatever has the lowest id. Theirs is a list of
pairs in the order in which they are merged. A token's pair is what the token's own bytes are just
before it is made: merging them with the lower ids alone leaves two parts. That is how vocabularies
are learnt, so it gives back the list of whoever learnt it; a vocabulary with a token that no pair
makes is refused.
"""

import itertools
import json
from pathlib import Path
from typing import Any

from model.errors import UsageError
from model.hf_tokenizer import read_tokenizer
from model.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer, byte_of_character


def written_tokens(tokenizer: Tokenizer) -> list[str]:
    """Each token by its id, as GPT-2's files write it; special tokens as they are.

    Raises:
        UsageError: an id between 0 and the last has no token.
    """
    characters = {byte: character for character, byte in byte_of_character().items()}
    tokens = {
        rank: "".join(characters[byte] for byte in token) for token, rank in tokenizer.ranks.items()
    }
    tokens.update({id_: text for text, id_ in tokenizer.special_tokens.items()})
    if sorted(tokens) != list(range(tokenizer.vocab_size)):
        raise UsageError(
            "the tokenizer's ids have gaps, which neither tokenizer.json nor GGUF can express"
        )
    return [tokens[id_] for id_ in range(len(tokens))]


def merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The pairs in the order in which they are merged.

    Raises:
        UsageError: no pair of tokens with lower ids makes some token; names it.
    """
    characters = {byte: character for character, byte in byte_of_character().items()}
    pairs = []
    for token, rank in sorted(tokenizer.ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = _merged_below(tokenizer.ranks, token, rank)
        if len(parts) != 2:
            raise UsageError(
                f"the tokenizer's token {rank}, {token!r}, is made by no pair of earlier tokens; "
                "only vocabularies learnt by merging pairs can be exported"
            )
        left, right = ("".join(characters[byte] for byte in part) for part in parts)
        pairs.append((left, right))
    return pairs


def _merged_below(ranks: dict[bytes, int], token: bytes, limit: int) -> list[bytes]:
    """The parts of `token` after all merges whose result has an id below `limit`."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        results = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        lowest = min(results)
        if lowest >= limit:
            break
        at = results.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def write_tokenizer(directory: Path, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    """Write tokenizer.json and tokenizer_config.json, and read them again.

    Args:
        settings: more for tokenizer_config.json.

    Raises:
        UsageError: the vocabulary cannot be written so; says why.
    """
    tokens = written_tokens(tokenizer)
    special = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(text, id_) for text, id_ in special],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.pattern),
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
            "ignore_merges": False,
            "vocab": {token: id_ for id_, token in enumerate(tokens)},
            "merges": [list(pair) for pair in merges(tokenizer)],
        },
    }
    # Not GPT2Tokenizer: that class replaces the pre-tokenizer by GPT-2's own pattern.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        **settings,
    }
    for name, content in (("tokenizer.json", whole), ("tokenizer_config.json", config)):
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (directory / name).write_text(text, encoding="utf-8")
    assert read_tokenizer(directory).sha256 == tokenizer.sha256, "tokenizer.json reads differently"


def _added_token(text: str, id_: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": text, **flags, "special": True}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """What cuts text into pieces: GPT-2's own by its name, any other spelt out."""
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
