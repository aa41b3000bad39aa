"""The figures of runs and reports, drawn with matplotlib.

Nothing here uses pyplot: no display and no figure that outlives its use. Text from data is drawn as
it is: `$` starts no formula, and characters that XML does not allow are replaced.
"""

import base64
import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

INK = "#1a1a1b"
"""The colour of text and lines of a figure; a dark page shows another in its place."""
_DARK_INK = "#dededf"
_SERIES = ("#3b7dd8", "#e07b39", "#3a9e6e", "#b05cc6", "#c94f5d", "#8a8d2f", "#4aa5b5", "#8b6f5c")
_MOST_SERIES = len(_SERIES)
_MOST_CELLS = 12  # labels of a confusion matrix with counts in its cells

_NOT_XML = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Points = Sequence[tuple[float, float]]


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """How all figures look; they must be made and saved within."""
    style: dict[Any, Any] = {
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "penwright",  # the same figure gives the same file
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.framealpha": 0.0,
        "font.size": 9,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's font may do
        yield


def loss_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Training and validation loss over the steps, of the records of a `metrics.jsonl`."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (key, label) in enumerate((("loss", "training"), ("val_loss", "validation"))):
        points = [(r["step"], r[key]) for r in records if key in r]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                label=label,
                linewidth=1 if key == "loss" else 2,
                color=_SERIES[number],
            )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats)")
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3)
    return figure


def confusion_figure(confusion: Mapping[str, Any]) -> Figure:
    """A confusion matrix: counts, coloured by the share of their row.

    Args:
        confusion: `labels`, and `counts` with a row for each true label.
    """
    labels, counts = [label_text(name) for name in confusion["labels"]], confusion["counts"]
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    side = 2.2 + 0.9 * min(len(labels), _MOST_CELLS)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= _MOST_CELLS:
        for row, values in enumerate(counts):
            for column, count in enumerate(values):
                colour = "white" if shares[row][column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
    turned = 90 if len(labels) > 3 else 0
    axes.set_xticks(range(len(labels)), labels, rotation=turned)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"test part, n = {sum(map(sum, counts))}")
    return figure


def curve_figure(
    curves: Mapping[str, Points], title: str, x_label: str, y_label: str, *, diagonal: bool
) -> Figure:
    """Curves in the unit square, a colour for each.

    Args:
        diagonal: whether to draw what chance gives, from corner to corner.
    """
    figure = Figure(figsize=(3.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    if diagonal:
        axes.plot((0, 1), (0, 1), linestyle=":", color=INK, alpha=0.6, linewidth=1)
    shown = list(curves.items())[:_MOST_SERIES]
    for colour, (name, points) in zip(_SERIES, shown, strict=False):
        axes.plot(*zip(*points, strict=True), label=label_text(name), color=colour, linewidth=1.5)
    if len(shown) > 1:
        axes.legend(fontsize=7)
    _unit_square(axes, x_label, y_label)
    axes.set_title(title, fontsize=10)
    return figure


def reliability_figure(bins: Sequence[Mapping[str, Any]], of: str) -> Figure:
    """How often what is said with a probability is so, with the number of texts below.

    Args:
        bins: each with `n`, mean `confidence`, and `accuracy` with its `interval`, as
            `training.measure.classifier_metrics` gives them.
        of: what the probability is of.
    """
    figure = Figure(figsize=(3.6, 3.4), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot((0, 1), (0, 1), linestyle=":", color=INK, alpha=0.6, linewidth=1)
    x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
    errors = [
        [b["accuracy"] - b["interval"][0] for b in bins],
        [b["interval"][1] - b["accuracy"] for b in bins],
    ]
    axes.errorbar(x, y, yerr=errors, color=_SERIES[0], marker="o", markersize=4, capsize=2)
    _unit_square(axes, "", "observed share")
    axes.set_title("reliability", fontsize=10)
    below.bar(x, [b["n"] for b in bins], width=0.03, color=_SERIES[0])
    below.set_yscale("log")
    below.set_ylabel("n")
    below.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    below.set_xlabel(f"probability of {label_text(of)}")
    return figure


def bars_figure(measures: Mapping[str, Mapping[str, Any]], chance: float | None = None) -> Figure:
    """Shares with their intervals, one bar below the other, and what chance gives."""
    names = [label_text(name, longest=60) for name in measures]
    values = [measure["value"] for measure in measures.values()]
    errors = [
        [max(0.0, m["value"] - m["interval"][0]) for m in measures.values()],
        [max(0.0, m["interval"][1] - m["value"]) for m in measures.values()],
    ]
    figure = Figure(figsize=(7, 0.7 + 0.2 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(names)), values, xerr=errors, color=_SERIES[0], ecolor=INK, height=0.7)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) - 0.4, -0.6)
    if chance is not None:
        axes.axvline(chance, linestyle=":", color=INK)
    axes.grid(alpha=0.3, axis="x")
    return figure


def _unit_square(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)


def label_text(text: str, longest: int = 40) -> str:
    """A name from data as a figure can show it: one line, not too long, no control characters."""
    line = _NOT_XML.sub("\ufffd", " ".join(text.split()) or "\ufffd")
    return line if len(line) <= longest else line[: longest - 1] + "…"


def png(figure: Figure) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def svg_uris(figure: Figure) -> tuple[str, str]:
    """The figure as two data URIs: for a light page and for a dark one."""
    image = io.StringIO()
    figure.savefig(image, format="svg", transparent=True, metadata={"Date": None})
    light = image.getvalue()
    dark = light.replace(INK, _DARK_INK)
    return _data_uri(light), _data_uri(dark)


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
