"""The report of an evaluation as one HTML file: no script, nothing from elsewhere.

All text goes through Jinja's escaping, since metrics, samples and cards hold what data and networks
say. Figures are images in the file itself, one for a light page and one for a dark one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from matplotlib.figure import Figure

from training.report import plots
from training.report.tables import is_confusion, is_measure, is_table, number

_FEW = 4  # shares in a group from which a plot says more than their table
_CARD = ("command", "seed", "steps", "tokens", "seconds", "device", "threads", "torch", "method")
"""What of a card is said of the training."""


@dataclass(frozen=True)
class Image:
    """A figure as data URIs."""

    caption: str
    light: str
    dark: str


@dataclass(frozen=True)
class Row:
    """A line of a table of metrics."""

    name: str
    value: str
    interval: str = ""
    n: str = ""
    low: float | None = None
    high: float | None = None
    """Where the interval is within [0, 1], for its bar; in per cent."""


@dataclass(frozen=True)
class Table:
    """Rows of any columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Part:
    """One group of metrics."""

    name: str
    n: str = ""
    rows: list[Row] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def has_intervals(self) -> bool:
        return any(row.interval for row in self.rows)


@dataclass(frozen=True)
class Section:
    """One checkpoint."""

    name: str
    facts: dict[str, str]
    parts: list[Part]
    loss: Image | None
    samples: list[Table]
    data: list[Table]
    methods: dict[str, str]
    training: dict[str, str]
    licences: list[str]


def render(report: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The HTML of an evaluation.

    Args:
        report: `command`, `date`, `machine` and `seconds` of the evaluation.
        entries: of each checkpoint by name, as `training.commands.evaluate` writes them: its
            `metrics`, any nested mapping, with `checkpoint`, `data`, `methods`, `curves`,
            `samples`, `card` and `log`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("training", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with plots.drawing():
        sections = [_section(name, entry) for name, entry in entries.items()]
    machine = {name: _words(value) for name, value in report["machine"].items() if value}
    return environment.get_template("report.html").render(
        title=", ".join(entries),
        sections=sections,
        machine=machine,
        command=report["command"],
        date=report["date"],
        seconds=report["seconds"],
    )


def _section(name: str, entry: Mapping[str, Any]) -> Section:
    card = entry["card"]
    parts = list(_parts(entry["metrics"]))
    for part in parts:
        part.images += _curve_images(entry["curves"].get(part.name, {}))
    log = entry["log"]
    return Section(
        name=name,
        facts={key: _words(value) for key, value in entry["checkpoint"].items() if key != "name"},
        parts=parts,
        loss=_image("loss over the steps of its training", plots.loss_figure(log)) if log else None,
        samples=[_table(title, rows) for title, rows in entry["samples"].items() if rows],
        data=[
            _table(title, rows)
            for title, rows in (
                ("measured on", entry["data"]),
                ("trained on", _mapping(card.get("data")).get("files")),
            )
            if is_table(rows)
        ],
        methods=dict(entry["methods"]),
        training={key: _words(card[key]) for key in _CARD if card.get(key) is not None}
        | {"split": _words(_mapping(card.get("data")).get("split", {}).get("rule", "not said"))},
        licences=[str(licence) for licence in card.get("licences", [])],
    )


def _parts(metrics: Mapping[str, Any]) -> Iterator[Part]:
    """The groups of metrics, and those that stand alone as a group without a name."""
    alone = {
        name: value
        for name, value in metrics.items()
        if is_measure(value) or not isinstance(value, Mapping)
    }
    if alone:
        part = Part("")
        _fill(part, "", alone)
        yield part
    for name, group in metrics.items():
        if name not in alone:
            part = Part(name, n=number(group["n"]) if "n" in group else "")
            _fill(part, "", group)
            yield part


def _fill(part: Part, prefix: str, group: Mapping[str, Any]) -> None:
    """Add all of a group to the part, and what is nested in it under names with ` / `."""
    for key, value in group.items():
        name = f"{prefix}{key}"
        if is_measure(value):
            part.rows.append(_measure_row(name, value))
        elif is_confusion(value):
            part.images.append(_image("confusion", plots.confusion_figure(value)))
        elif isinstance(value, Mapping):
            if len(value) >= _FEW and all(is_share(entry) for entry in value.values()):
                part.images.append(_image(name, plots.bars_figure(value, group.get("chance"))))
                part.tables.append(_measures_table(name, value))
            else:
                _fill(part, f"{name} / ", value)
        elif is_table(value):
            part.tables.append(_table(name, value))
        elif key != "n" or prefix:
            part.rows.append(Row(name, _words(value)))


def is_share(value: Any) -> bool:
    """A measure between 0 and 1."""
    return is_measure(value) and 0 <= value["interval"][0] <= value["interval"][1] <= 1


def _measure_row(name: str, measure: Mapping[str, Any]) -> Row:
    low, high = measure["interval"]
    bounds = (100 * low, 100 * high) if is_share(measure) else (None, None)
    interval = f"{number(float(low))} – {number(float(high))}"
    return Row(name, number(measure["value"]), interval, number(measure["n"]), *bounds)


def _measures_table(title: str, measures: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [_measure_row(name, measure) for name, measure in measures.items()]
    cells = [[row.name, row.value, row.interval, row.n] for row in rows]
    return Table(title, ("", "value", "95%", "n"), cells)


def _curve_images(curves: Mapping[str, Any]) -> Iterator[Image]:
    if curves.get("reliability"):
        yield _image(
            "reliability", plots.reliability_figure(curves["reliability"], curves["reliability_of"])
        )
    for key, title, x, y, chance in (
        ("roc", "ROC", "false positive rate", "true positive rate", True),
        ("precision_recall", "precision and recall", "recall", "precision", False),
    ):
        if curves.get(key):
            yield _image(title, plots.curve_figure(curves[key], title, x, y, diagonal=chance))


def _image(caption: str, figure: Figure) -> Image:
    return Image(caption, *plots.svg_uris(figure))


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(rows[0])
    return Table(title, columns, [[_words(row[column]) for column in columns] for row in rows])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _words(value: Any) -> str:
    """Any value on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_words, value))
    return number(value)
