"""The records of a run for TensorBoard, beside those in `metrics.jsonl`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import UsageError


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
