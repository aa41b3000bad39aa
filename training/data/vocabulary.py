"""Byte-pair merges learnt from text, and the files that hold them.

The merges are learnt by Hugging Face's `tokenizers` and written as a tiktoken encoding; beside the
file, `NAME.json` holds the splitting pattern and the special tokens.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.checkpoint.atomic import write_file
from model.errors import DataError, UsageError
from model.json_files import read_json
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer, byte_of_character

LONGEST_PIECE = 512
"""Characters of a piece, within which pairs are merged, above which it is cut for learning: time
grows with the square of the longest one. No word is as long, so that nothing is lost."""

_SHOW_AFTER = 2.0  # seconds; what is done by then needs no bar
_LONG_RUN = re.compile(rf"\S{{{LONGEST_PIECE},}}|\s{{{LONGEST_PIECE},}}")


def train_tokenizer(texts: Iterable[str], vocab_size: int, pattern: str = PATTERN) -> Tokenizer:
    """Learn byte-pair merges until there are `vocab_size` tokens, the end token included.

    Shows on stderr how far it is, and how many pieces were too long to be learnt from as a whole.

    Raises:
        UsageError: `vocab_size` leaves no room for the 256 bytes and the end token.
        DataError: the text is too small to give that many tokens.
    """
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Trainable

    if vocab_size < 257:
        raise UsageError(
            f"--vocab-size is {vocab_size}; it must be at least 257: 256 bytes and {END_OF_TEXT}"
        )
    trainable = Trainable(models.BPE())
    trainable.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    terminal = sys.stderr.isatty()
    cutter = _Cutter(trainable.pre_tokenizer[0])
    trainable.train_from_iterator(
        cutter.cut(_counted(texts, silent=terminal)),  # on a terminal, the trainer shows more
        trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=terminal,
        ),
    )
    if cutter.pieces:
        print(
            f"{cutter.pieces} stretches of text without a break are longer than {LONGEST_PIECE} "
            "characters; for learning they were cut into parts of that length",
            file=sys.stderr,
        )
    to_byte = byte_of_character()
    vocabulary = trainable.get_vocab()
    # Single bytes come first, then merges in the order in which they were learnt.
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [
        bytes(to_byte[character] for character in token)
        for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])
        if len(token) > 1
    ]
    if len(tokens) < vocab_size - 1:
        raise DataError(
            f"--data gives only {len(tokens) + 1} tokens; --vocab-size {vocab_size} needs more text"
        )
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return Tokenizer(ranks, pattern, {END_OF_TEXT: vocab_size - 1})


class _Cutter:
    """Cuts texts within pieces that are too long, and nowhere else.

    Args:
        split: the pre-tokenizer that tells pieces apart.
    """

    def __init__(self, split: Any) -> None:
        self._split = split
        self.pieces = 0
        """How many were cut."""

    def cut(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            start = 0
            for end in self._ends(text):
                yield text[start:end]
                start = end
            yield text[start:]

    def _ends(self, text: str) -> Iterator[int]:
        """Where to cut. A piece is in one run of characters that are all white space, or none, but
        for a few beside it: only long runs need to be looked at."""
        for run in _LONG_RUN.finditer(text):
            for _, (first, last) in self._split.pre_tokenize_str(run.group()):
                if last - first > LONGEST_PIECE:
                    self.pieces += 1
                    cuts = range(first + LONGEST_PIECE, last, LONGEST_PIECE)
                    yield from (run.start() + place for place in cuts)


def _counted(texts: Iterable[str], *, silent: bool) -> Iterator[str]:
    """The same texts, with a bar that counts their characters."""
    with tqdm(
        unit="char",
        unit_scale=True,
        desc="tokenizer",
        mininterval=30,
        delay=_SHOW_AFTER,
        disable=silent,
    ) as bar:
        for text in texts:
            yield text
            bar.update(len(text))
        shown = not silent and bar.format_dict["elapsed"] >= _SHOW_AFTER
        bar.set_description("tokenizer: all read, learning merges", refresh=shown)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    write_file(path, tokenizer.file_content())
    write_file(_settings_file(path), json.dumps(tokenizer.settings(), indent=1).encode())


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of `--tokenizer`: `gpt2`, or a file that `save_tokenizer` wrote.

    Raises:
        UsageError: the file or its settings are missing.
        CheckpointError: one of them is invalid; names it.
    """
    if name == "gpt2":
        return Tokenizer.gpt2()
    path = Path(name)
    for needed in (path, _settings_file(path)):
        if not needed.is_file():
            raise UsageError(f"--tokenizer {name}: {needed} is missing; give `gpt2` or a file")
    return Tokenizer.from_file(path, read_json(_settings_file(path)))


def _settings_file(path: Path) -> Path:
    return Path(f"{path}.json")
