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
from model.tokenizer import Tokenizer
from model.tokenizer.alphabet import character_of_byte
from model.tokenizer.files import tokenizer_json
from model.tokenizer.hugging_face import read_tokenizer
from model.tokenizer.merges import BytePairs
from model.tokenizer.patterns import KNOWN_PATTERNS


def byte_pairs(tokenizer: Tokenizer) -> BytePairs:
    """The tokenizer's merges: its own, or those that its ids tell.

    Raises:
        UsageError: as of `merges`, or an ordinary token is written as a special one.
    """
    if tokenizer.pairs is not None:
        return tokenizer.pairs
    characters = character_of_byte()
    tokens = {
        "".join(characters[byte] for byte in token): rank for token, rank in tokenizer.ranks.items()
    }
    for text in tokenizer.special.ids:
        if text in tokens:
            raise UsageError(
                f"the tokenizer has {text!r} both as a special and as an ordinary token, which "
                "neither tokenizer.json nor GGUF can express"
            )
    return BytePairs(tokens, merges(tokenizer), tokenizer.pattern)


def merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The pairs in the order in which they are merged.

    Raises:
        UsageError: no pair of tokens with lower ids makes some token; names it.
    """
    characters = character_of_byte()
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
    if tokenizer.pairs is None and tokenizer.pattern not in KNOWN_PATTERNS:
        raise UsageError(
            f"--format hf: the tokenizer's pattern {tokenizer.pattern} may be read in another way "
            "by `tokenizers`; only the known ones can be exported"
        )
    pairs, special = byte_pairs(tokenizer), tokenizer.special
    count = len(pairs.tokens) + len(pairs.added) + len(special.ids)
    if count != tokenizer.vocab_size:
        raise UsageError(
            f"--format hf: the tokenizer has {count} tokens with ids up to "
            f"{tokenizer.vocab_size - 1}; tokenizer.json cannot leave ids out"
        )
    names = {token: text for text, token in special.ids.items()}
    beginning = None if special.beginning is None else names[special.beginning]
    whole = tokenizer_json(pairs, special.ids)
    if special.adds_beginning:
        assert beginning is not None
        assert special.beginning is not None
        whole["post_processor"] = _begins_with(beginning, special.beginning)
    # Not GPT2Tokenizer: that class replaces the pre-tokenizer by GPT-2's own pattern.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": beginning,
        "eos_token": names[special.end_of_document],
        "pad_token": names[special.pad],
        "clean_up_tokenization_spaces": False,
        **settings,
    }
    for name, content in (("tokenizer.json", whole), ("tokenizer_config.json", config)):
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (directory / name).write_text(text, encoding="utf-8")
    assert read_tokenizer(directory).sha256 == tokenizer.sha256, "tokenizer.json reads differently"


def _begins_with(text: str, token: int) -> dict[str, Any]:
    """The post-processor that puts a token before every text, and before both of a pair."""

    def one(sequence: str, number: int) -> list[dict[str, Any]]:
        return [
            {"SpecialToken": {"id": text, "type_id": number}},
            {"Sequence": {"id": sequence, "type_id": number}},
        ]

    return {
        "type": "TemplateProcessing",
        "single": one("A", 0),
        "pair": [*one("A", 0), *one("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]}},
    }
