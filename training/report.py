"""Plots and tables of a run."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.atomic import write_file
from model.errors import DataError


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last one that a crash or a full disk cut off is left out.

    Raises:
        DataError: another line is not valid JSON.
    """
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
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
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    records = read_metrics(metrics_file)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("loss", "training"), ("val_loss", "validation")):
        points = [(r["step"], r[key]) for r in records if key in r]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1 if key == "loss" else 2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, out)


def plot_confusion(confusion: Mapping[str, Any], out: Path) -> None:
    """A confusion matrix as PNG: counts, coloured by the share of their row.

    Args:
        confusion: `labels`, and `counts` with a row for each true label.
    """
    from matplotlib.figure import Figure

    labels, counts = confusion["labels"], confusion["counts"]
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    side = 2.2 + 0.9 * len(labels)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, values in enumerate(counts):
        for column, count in enumerate(values):
            colour = "white" if shares[row][column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"test part, n = {sum(map(sum, counts))}")
    _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    """Drawn in memory, then written whole: a full disk is a clear error."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_file(out, image.getvalue())


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """A table of a card's metrics, on stdout."""
    for part, values in metrics.items():
        if not isinstance(values, Mapping):
            print(f"{part}: {_number(values)}")
            continue
        print(f"{part}" + (f" (n = {values['n']})" if "n" in values else ""))
        for name, value in values.items():
            if name == "confusion":
                _print_confusion(value)
            elif isinstance(value, Mapping):
                low, high = value["interval"]
                print(
                    f"  {name:<12} {_number(value['value']):>8}  "
                    f"95% [{low:.4f}, {high:.4f}]  n = {value['n']}"
                )
            elif name != "n":
                print(f"  {name:<12} {_number(value):>8}")


def _print_confusion(confusion: Mapping[str, Any]) -> None:
    width = max(8, *(len(label) + 2 for label in confusion["labels"]))
    print("  true \\ said " + "".join(f"{label:>{width}}" for label in confusion["labels"]))
    for label, row in zip(confusion["labels"], confusion["counts"], strict=True):
        print(f"  {label:<12}" + "".join(f"{count:>{width}}" for count in row))


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
