"""The two libraries that merge bytes into tokens, behind one interface.

Both are written in Rust, and what goes wrong inside can come out as a panic, which is no
`Exception`: here it becomes an error with a message.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import tiktoken

from model.errors import CheckpointError, TextError
from model.tokenizer.merges import BytePairs
from model.tokenizer.patterns import pre_tokenizer_of

_OVERFLOWS = ("StackOverflow", "BacktrackLimitExceeded", "retry-limit")
_LONG_SPACE = re.compile(r"\s{100000}")


class Backend(Protocol):
    """Turns ordinary text into tokens; half a surrogate pair in it counts as U+FFFD."""

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]: ...


class TiktokenBackend:
    """tiktoken, for vocabularies in which the ids say what is merged.

    Args:
        ranks: ids by bytes; holds all 256 single bytes.

    Raises:
        CheckpointError: tiktoken cannot use the pattern or the ranks.
    """

    def __init__(self, ranks: dict[bytes, int], pattern: str) -> None:
        with _as_checkpoint_error("tiktoken"):
            self._encoding = tiktoken.Encoding(
                "penwright", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
            )

    def encode(self, text: str) -> list[int]:
        with _as_text_error([text]):
            return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]:
        with _as_text_error(texts):
            return self._encoding.encode_ordinary_batch(list(texts), num_threads=threads)


class TokenizersBackend:
    """Hugging Face's `tokenizers`, for all others.

    Args:
        further: tokens beside those of `pairs`, which no merge makes.

    Raises:
        CheckpointError: the package is not installed, or refuses the pattern or the merges.
    """

    def __init__(self, pairs: BytePairs, further: Mapping[str, int]) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise CheckpointError(
                "needs the package tokenizers (`pip install tokenizers`)"
            ) from error
        added = {text: token.id for text, token in pairs.added.items()}
        with _as_checkpoint_error("tokenizers"):
            self._inner: Any = tokenizers.Tokenizer(
                tokenizers.models.BPE(
                    vocab={**added, **pairs.tokens, **further},
                    merges=list(pairs.merges),
                    ignore_merges=pairs.ignore_merges,
                )
            )
            if pairs.nfc:
                self._inner.normalizer = tokenizers.normalizers.NFC()
            self._inner.pre_tokenizer = _pre_tokenizer(pairs.pattern)
            self._inner.add_tokens(
                [
                    tokenizers.AddedToken(text, normalized=token.normalized)
                    for text, token in pairs.added.items()
                ]
            )

    def encode(self, text: str) -> list[int]:
        with _as_text_error([text]):
            try:
                found: list[int] = self._inner.encode(text, add_special_tokens=False).ids
            except TypeError:
                whole = without_surrogates(text)
                found = self._inner.encode(whole, add_special_tokens=False).ids
            return found

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]:
        # Its own batches take every core there is. `encode` lets other threads run meanwhile.
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.encode, texts))


def _pre_tokenizer(pattern: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    whole = pre_tokenizer_of(pattern)
    if whole["type"] == "ByteLevel":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def without_surrogates(text: str) -> str:
    """`text` with U+FFFD for half a surrogate pair, which is how tiktoken reads it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def _as_checkpoint_error(library: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        raise CheckpointError(f"{library} cannot use it: {_line(error)}") from None


@contextlib.contextmanager
def _as_text_error(texts: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not _is_panic(error):
            raise
        reason = f"the text cannot be tokenized: {_line(error)}"
        if any(overflow in str(error) for overflow in _OVERFLOWS):
            # Regular expressions overflow on what they have to take back, such as huge runs of
            # white space.
            reason = "the text has a stretch too long for the tokenizer's pattern"
            if any(_LONG_SPACE.search(text) for text in texts):
                reason = "the text has a run of white space too long to tokenize"
        raise TextError(reason) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
