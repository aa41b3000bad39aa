"""What a language model is measured by besides its own validation part: texts, and BLiMP.

`evaluate` and the end of a pretraining measure with this, so that the same files give the same
numbers on a card and in a report.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import DataError, UsageError
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from training.data.documents import documents, hash_fraction, text_hash
from training.data.files import read_file
from training.measure.blimp import METHOD as BLIMP_METHOD
from training.measure.blimp import MinimalPair, blimp_metrics, load_pairs
from training.measure.language import text_metrics

TEXT_METHOD = (
    "each document follows an end token; windows of the context length, one after another without "
    "an overlap, so that every token is predicted once; loss in nats per token; bits per byte over "
    "the UTF-8 bytes of the documents"
)
"""For reports."""

BLIMP = "blimp"
"""The name of BLiMP among the metrics."""


@dataclass(frozen=True)
class Yardstick:
    """Files to measure a language model by, checked when it is made: a file that cannot be used
    is an error before a training, not after it."""

    texts: Mapping[str, tuple[str, ...]]
    """The documents of each file, by the name that metrics have for it."""
    pairs: tuple[MinimalPair, ...]
    held_out: float | None
    """Only documents that a training with this `--val-fraction` left out."""
    sources: tuple[dict[str, Any], ...]
    """Name and SHA-256 of each file."""

    def measure(self, model: Transformer, tokenizer: Tokenizer) -> dict[str, Any]:
        """Metrics by the name of the text, and of BLiMP.

        Args:
            model: in evaluation mode.
        """
        result: dict[str, Any] = {}
        for name, chosen in self.texts.items():
            # Every document follows an end token, as in training: its first token counts as well.
            tokens = [tokenizer.end_token]
            for document in tokenizer.encode_batch(list(chosen)):
                tokens += [*tokenizer.prefix, *document, tokenizer.end_token]
            values = text_metrics(model, np.array(tokens, np.uint32), tokenizer)
            result[name] = {"documents": len(chosen), **values}
        if self.pairs:
            result[BLIMP] = blimp_metrics(model, tokenizer, self.pairs)
        return result

    def methods(self) -> dict[str, str]:
        """How the numbers are to be read."""
        found = {}
        if self.texts:
            found["text"] = TEXT_METHOD
        if self.held_out is not None:
            found["held out"] = (
                "only documents whose SHA-256 of the normalised text, read as a fraction, is below "
                f"{self.held_out}: those that trainings with this --val-fraction do not see"
            )
        if self.pairs:
            found[BLIMP] = BLIMP_METHOD
        return found


def yardstick(
    texts: Sequence[Path],
    blimp: Path | None,
    held_out: float | None = None,
    encoding: str | None = None,
) -> Yardstick:
    """Read the files that a model is to be measured by.

    Args:
        encoding: of the texts, if they are not in UTF-8.

    Raises:
        DataError: a file cannot be used, or has no document that is held out; names it.
    """
    names = Counter(path.name for path in texts)
    paths = {path.name if names[path.name] == 1 else str(path): path for path in texts}
    if BLIMP in paths:
        raise UsageError(f"{paths[BLIMP]}: the name {BLIMP} is taken; rename the file")
    found: dict[str, tuple[str, ...]] = {}
    sources = []
    for name, path in paths.items():
        file = read_file(path, encoding)
        found[name] = tuple(_documents(file.text, held_out))
        sources.append({**file.source, "file": name})
        if not found[name]:
            raise DataError(
                f"{path}: none of its documents is held out: of none is the hash below {held_out}"
                if held_out is not None
                else f"{path}: has no document"
            )
    pairs: tuple[MinimalPair, ...] = ()
    if blimp is not None:
        file = read_file(blimp)
        pairs = tuple(load_pairs(file))
        sources.append(file.source)
    return Yardstick(found, pairs, held_out, tuple(sources))


def _documents(text: str, held_out: float | None) -> Iterator[str]:
    """The documents of a file; of those that are held out, each once, as in training."""
    seen: set[str] = set()
    for document in documents(text):
        if held_out is None:
            yield document
        elif hash_fraction(document) < held_out and (identity := text_hash(document)) not in seen:
            seen.add(identity)
            yield document
