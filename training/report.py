"""Plots of a run."""

import json
from pathlib import Path


def plot_loss(metrics_file: Path, out: Path) -> None:
    """Training and validation loss over the steps, as PNG."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    records = [json.loads(line) for line in metrics_file.read_text().splitlines()]
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
    figure.savefig(out, dpi=120)
