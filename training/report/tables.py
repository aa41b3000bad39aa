"""Plots and tables of a run.

Metrics are nested mappings of whatever a task measures. Three forms have a meaning of their own: a
*measure* is a mapping with `value`, `interval` (95%) and `n`; a *confusion* has `labels` and
`counts`; a *table* is a list of mappings. Everything else is a group with a name.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from model.checkpoint.atomic import write_file
from model.errors import DataError


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last one that a crash or a full disk cut off is left out.

    Raises:
        DataError: it cannot be read, or another line is not valid JSON.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise DataError(f"{file}: line {number} is not valid JSON: {error}") from error
    return records


def plot_loss(metrics_file: Path, out: Path) -> None:
    """Training and validation loss over the steps, as PNG."""
    from training.report import (
        plots,  # matplotlib is slow to import, and most commands plot nothing
    )

    with plots.drawing():
        image = plots.png(plots.loss_figure(read_metrics(metrics_file)))
    write_file(out, image)


_WIDEST = 12
"""Labels of a confusion that is printed whole."""
_MISTAKES = 10
"""Of a larger one, so many are named; all of them are on the card and in the report."""


def plot_confusion(confusion: Mapping[str, Any], out: Path) -> None:
    """A confusion matrix as PNG: counts, coloured by the share of their row.

    Args:
        confusion: `labels`, and `counts` with a row for each true label.
    """
    from training.report import plots

    with plots.drawing():
        image = plots.png(plots.confusion_figure(confusion))
    write_file(out, image)


def is_measure(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """A number with its interval and count."""
    return isinstance(value, Mapping) and {"value", "interval", "n"} <= value.keys()


def is_confusion(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and value.keys() == {"labels", "counts"}


def is_table(value: Any) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Rows with columns of the same names."""
    return (
        isinstance(value, Sequence)
        and bool(value)
        and all(isinstance(row, Mapping) and row.keys() == value[0].keys() for row in value)
    )


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """A table of metrics, as they stand on a card, on stdout."""
    for part, values in metrics.items():
        if isinstance(values, Mapping) and not is_measure(values):
            print(part + (f" (n = {values['n']})" if "n" in values else ""))
            _print_group(values, "  ")
        else:
            _print_entry(part, values, "")


def _print_group(values: Mapping[str, Any], indent: str) -> None:
    width = max([12, *(len(name) for name in values)])
    for name, value in values.items():
        if name != "n":
            _print_entry(name, value, indent, width)


def _print_entry(name: str, value: Any, indent: str, width: int = 12) -> None:
    if is_measure(value):
        low, high = value["interval"]
        print(
            f"{indent}{name:<{width}} {number(value['value']):>8}  "
            f"95% [{low:.4f}, {high:.4f}]  n = {value['n']}"
        )
    elif is_confusion(value):
        _print_confusion(value)
    elif isinstance(value, Mapping):
        print(f"{indent}{name}" + (f" (n = {value['n']})" if "n" in value else ""))
        _print_group(value, indent + "  ")
    elif is_table(value):
        print(f"{indent}{name:<{width}} {len(value)} rows")
    else:
        print(f"{indent}{name:<{width}} {number(value):>8}")


def _print_confusion(confusion: Mapping[str, Any]) -> None:
    """The matrix, or of many labels, those that are most often taken for another."""
    if len(confusion["labels"]) > _WIDEST:
        _print_mistakes(confusion)
        return
    width = max(8, *(len(label) + 2 for label in confusion["labels"]))
    print("  true \\ said " + "".join(f"{label:>{width}}" for label in confusion["labels"]))
    for label, row in zip(confusion["labels"], confusion["counts"], strict=True):
        print(f"  {label:<12}" + "".join(f"{count:>{width}}" for count in row))


def _print_mistakes(confusion: Mapping[str, Any]) -> None:
    labels, counts = confusion["labels"], confusion["counts"]
    pairs = [
        (count, labels[true], labels[said])
        for true, row in enumerate(counts)
        for said, count in enumerate(row)
        if true != said and count
    ]
    for count, true, said in sorted(pairs, key=lambda pair: -pair[0])[:_MISTAKES]:
        print(f"  {true} was taken for {said}: {count} of {sum(counts[labels.index(true)])}")


def number(value: Any) -> str:
    """As people read it: four decimals, and thousands set apart."""
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
