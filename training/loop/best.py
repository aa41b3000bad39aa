"""The weights of the best evaluation, which always come from the history of the saved state.

    state/best.pt       those that the state in `last.pt` names, by their step and loss
    state/best-new.pt   those of a better evaluation since, until the next state is saved

A run may be killed between any two writes, and resumed with another length: what was better in
steps that `last.pt` knows nothing of is then forgotten together with these steps.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.atomic import writing
from model.checkpoint.names import current_name
from model.errors import UsageError
from training.loop.state import Progress, save
from training.loop.state_file import no_state, read


def saved_path(directory: Path) -> Path:
    return directory / "state" / "best.pt"


def new_path(directory: Path) -> Path:
    return directory / "state" / "best-new.pt"


def exists(directory: Path) -> bool:
    """Whether there are some, of whatever run."""
    return saved_path(directory).exists() or new_path(directory).exists()


def keep(directory: Path, progress: Progress, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of the evaluation that `progress` has as its best.

    Raises:
        PenwrightError: they cannot be written; names the file.
    """
    named = {"step": progress.best_step, "loss": progress.best_loss, "trained": dict(weights)}
    save(named, new_path(directory))


def settle(directory: Path) -> None:
    """`last.pt` now names the newest ones, if there are newer ones at all."""
    new = new_path(directory)
    if new.exists():
        with writing(saved_path(directory)):
            os.replace(new, saved_path(directory))


def find(directory: Path, progress: Progress) -> Path:
    """The file with the best weights of the run whose state has `progress`.

    Raises:
        UsageError: there is none, or only that of another run.
        PenwrightError: a file cannot be read, is damaged, or has no weights.
    """
    return _found(directory, progress)[0]


def _found(directory: Path, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """The file as of `find`, and what it holds: mapped, for its tensors may not be wanted."""
    saved = saved_path(directory)
    for path in (saved, new_path(directory)):
        if path.exists() and _is_of(content := read(path, mapped=True), progress):
            if not all(isinstance(each, Tensor) for each in _weights(content).values()):
                raise no_state(path, "it has no weights")
            return path, content
    if not exists(directory):
        raise UsageError(f"--resume: {saved} is missing; start again without --resume")
    raise UsageError(
        f"--resume: {saved} is not of the run whose state is in last.pt; start again without "
        "--resume"
    )


def adopt(directory: Path, progress: Progress | None) -> None:
    """Leave only what the state with `progress` names, which `find` has found; or nothing."""
    found = None if progress is None else find(directory, progress)
    if found == new_path(directory):
        settle(directory)
    if found is None:
        saved_path(directory).unlink(missing_ok=True)
    for left in (new_path(directory), new_path(directory).with_suffix(".tmp")):
        left.unlink(missing_ok=True)


def forget(directory: Path) -> None:
    """Delete all of it."""
    adopt(directory, None)


def load(directory: Path, progress: Progress, device: torch.device) -> dict[str, Tensor]:
    """The best weights of the run whose state has `progress`.

    Raises:
        UsageError, PenwrightError: as of `find`.
    """
    _, content = _found(directory, progress)
    # An earlier version called the network's parts otherwise.
    return {current_name(name): tensor.to(device) for name, tensor in _weights(content).items()}


def _is_of(content: Mapping[str, Any], progress: Progress) -> bool:
    if progress.best_step is None:  # saved by an earlier version, as the weights alone
        return "step" not in content
    return (content.get("step"), content.get("loss")) == (progress.best_step, progress.best_loss)


def _weights(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of a file, beside which earlier versions wrote nothing."""
    weights = content.get("trained") if "step" in content else content
    return weights if isinstance(weights, dict) else {"trained": weights}
