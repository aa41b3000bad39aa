"""The saved state of a run: `state/last.pt`, from which `--resume` goes on.

With `--sharded-state` the tensors are in a directory beside it, which `last.pt` names: it is valid
from the moment that `last.pt` is.
"""

import dataclasses
import math
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.architecture import Architecture
from model.checkpoint.names import current_name
from model.errors import PenwrightError, UsageError
from model.prompts import Alpaca
from training.loop.settings import LENGTHS
from training.loop.state_file import no_state, read

FORMAT = 2
"""Of `last.pt`; the first one had no number, and other names for the network's parts."""


@dataclass
class Progress:
    """Where a run is. All of it is saved and restored."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int | None = None
    """Of the evaluation with that loss; of a state that an earlier version saved, not known."""
    bad_evaluations: int = 0
    """Evaluations since the best one."""
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps, to tell a spike from."""


def last_state(directory: Path) -> Path:
    return directory / "state" / "last.pt"


def forget(directory: Path) -> None:
    """Delete the state of an earlier run, which a new one must not go on from."""
    last_state(directory).unlink(missing_ok=True)
    forget_shards(directory)


def shards(directory: Path, step: int) -> Path:
    """The directory of a sharded state."""
    return directory / "state" / f"shards-{step}"


def forget_shards(directory: Path, keep: str | None = None) -> None:
    """Delete all directories of shards but the one named."""
    for path in (directory / "state").glob("shards-*"):
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def load(directory: Path) -> dict[str, Any]:
    """What `last.pt` of the run in `directory` holds, on the CPU.

    Raises:
        UsageError: there is none.
        PenwrightError: it cannot be read, is damaged, or is no state.
    """
    path = last_state(directory)
    if not path.exists():
        raise UsageError(f"--resume: {path} does not exist, so there is nothing to resume")
    state = read(path)
    _check_fields(state, path)
    # There was no other template once.
    state["identity"] = {"template": Alpaca().settings(), **state["identity"]}
    if "format" in state:
        identity = current_identity(state["identity"], f"--resume: {path}")
        return {**state, "identity": identity}
    if "shards" in state:
        raise UsageError(
            f"--resume: {path} was saved in shards by an earlier version, which called the "
            "network's parts by other names; start again without --resume"
        )
    return {
        **state,
        "identity": current_identity(state["identity"], f"--resume: {path}"),
        "trained": _renamed(state["trained"]),
    }


def current_identity(saved: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What a resumed run must share, by today's names and with all choices of the architecture.

    Args:
        source: where it was saved, for errors.
    """
    identity = dict(saved)
    if "class_weights" in identity:
        identity.setdefault("pooling", "last")  # before there was a choice
    if isinstance(identity.get("architecture"), dict):
        architecture = Architecture.from_dict(identity["architecture"], source)
        identity["architecture"] = architecture.to_dict()
    if isinstance(identity.get("lora"), dict):
        targets = map(current_name, identity["lora"]["targets"])
        # Before there was a choice, alpha was divided by the rank, and nothing else was learnt.
        before = {"scaling": "rank", "dora": False}
        identity["lora"] = {**before, **identity["lora"], "targets": sorted(targets)}
    return identity


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by today's names; an earlier version called the network's parts otherwise."""
    return {current_name(name): tensor for name, tensor in weights.items()}


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "identity": dict,
    "progress": dict,
    "random": (list, Tensor),
    "optimizer": list,
}


def _check_fields(state: Mapping[str, Any], path: Path) -> None:
    """
    Raises:
        UsageError: a later version saved the state.
        PenwrightError: it lacks something, or has something of another kind.
    """
    if state.get("format", FORMAT) != FORMAT:
        raise UsageError(
            f"--resume: {path} is of format {state['format']}; this Penwright goes on from "
            f"{FORMAT}; start again without --resume"
        )
    tensors: Mapping[str, type] = {"shards": str} if "shards" in state else {"trained": dict}
    for name, kind in {**_KINDS, **tensors}.items():
        if name not in state:
            raise no_state(path, f"it has no {name}")
        if not isinstance(state[name], kind):
            raise no_state(path, f"its {name} is a {type(state[name]).__name__}")
    for name in ("warmup", *LENGTHS):
        if name not in state["identity"]:
            raise no_state(path, f"its identity has no {name}")
    known = {each.name for each in dataclasses.fields(Progress)}
    if "step" not in state["progress"] or not state["progress"].keys() <= known:
        raise no_state(path, "its progress is of something else")


def check_same(
    state: Mapping[str, Any], identity: Mapping[str, Any], free: Collection[str] = ()
) -> None:
    """Refuse to go on from `state` with other settings than those it was saved with.

    A base is known by its weights, whatever they are read from; earlier versions knew it by its
    card, which `identity` has as `base_card`.

    Args:
        free: names in `identity` that may differ. What the saved run does not know may, too.

    Raises:
        UsageError: a value differs; names its flag.
    """
    saved = state["identity"]
    for name, value in identity.items():
        if name == "base_card" or name in free:
            continue
        same = (value, identity.get("base_card")) if name == "base" else (value,)
        if saved.get(name, value) not in same:
            raise UsageError(
                f"--resume: --{name.replace('_', '-')} is {value}, but the saved run has "
                f"{saved[name]}; resume with the same settings"
            )


def save(state: Any, path: Path) -> None:
    """Write `path` whole or not at all.

    Raises:
        PenwrightError: it cannot be written; names the file.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into RuntimeError
        temporary.unlink(missing_ok=True)
        raise PenwrightError(
            f"{path}: cannot be written: {error}; what was there before still is"
        ) from error
