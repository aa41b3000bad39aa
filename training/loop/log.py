"""What a run writes down as it goes: `metrics.jsonl`, the same as a plot in `loss.png`, and on
request as event files for TensorBoard.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoint.atomic import write_file, writing
from model.errors import DataError, UsageError
from training.report.tables import plot_loss, read_metrics

_LOST = "mend it, or delete the file to go on without the records of before"


class MetricsLog:
    """The records of one run, each with the `step` that it is of.

    Args:
        tensorboard: write event files as well, into `tensorboard/`.
        silent: write nothing, as all processes but the first.
    """

    def __init__(self, directory: Path, *, tensorboard: bool = False, silent: bool = False) -> None:
        self.directory = directory
        self.file = directory / "metrics.jsonl"
        self._tensorboard = tensorboard
        self._silent = silent
        self._events: EventFiles | None = None

    def start(self) -> None:
        """Begin anew."""
        if not self._silent:
            write_file(self.file, b"")
            self._open_events(0)

    def go_on(self, step: int) -> None:
        """Keep the records up to `step`: later ones belong to work that is now done again.

        Raises:
            DataError: the file is damaged; names the line.
        """
        if self._silent:
            return
        records = self._records() if self.file.exists() else []
        kept = [record for record in records if record["step"] <= step]
        write_file(self.file, "".join(json.dumps(r) + "\n" for r in kept).encode())
        self._open_events(step)

    def _records(self) -> list[dict[str, Any]]:
        try:
            records = read_metrics(self.file)
        except DataError as error:
            raise DataError(f"--resume: {error}; {_LOST}") from error
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                raise DataError(f"--resume: {self.file}: line {number} has no step; {_LOST}")
        return records

    def _open_events(self, step: int) -> None:
        if self._tensorboard:
            self._events = EventFiles(self.directory / "tensorboard", step)

    def add(self, record: Mapping[str, Any]) -> None:
        if self._silent:
            return
        with writing(self.file), self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._events is not None:
            self._events.add(record)

    def plot(self) -> None:
        """Bring what people look at up to date."""
        if self._silent:
            return
        plot_loss(self.file, self.directory / "loss.png")
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Nothing more is added."""
        if self._events is not None:
            self._events.close()
            self._events = None


class EventFiles:
    """Event files in `directory`, of every number of every record.

    Args:
        step: where the run is: what earlier event files have from later steps is void.

    Raises:
        UsageError: the package is not installed.
    """

    def __init__(self, directory: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--tensorboard needs the package {error.name or 'tensorboard'}: "
                "run pip install tensorboard"
            ) from error
        purge = step + 1 if step else 0  # step 0 has its evaluation before training
        self._writer: Any = SummaryWriter(str(directory), purge_step=purge)

    def add(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, record["step"])

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
