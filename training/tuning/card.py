"""What every checkpoint's card says of how it was made."""

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from model.checkpoint.files import CARD
from model.checkpoint.weights_folder import VARIABLE, weights_folder
from model.classifier import Labels
from model.errors import UsageError
from model.json_files import field, read_json
from training.loop.settings import LoopSettings
from training.loop.state import Progress


def run_fields(
    settings: LoopSettings, progress: Progress, *, command: str | None, licences: Sequence[str]
) -> dict[str, Any]:
    """Command, settings, length and licences of a run."""
    return {
        "command": command,
        "settings": asdict(settings),
        "seed": settings.seed,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "device": settings.torch_device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "licences": list(licences),
    }


def text_splits(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How each pretraining that a checkpoint comes from split its text: `val_fraction`, whether
    documents were `cut`, and the SHA-256 of its `files`. What all of them left out is held out."""
    found = []
    step: Any = card
    while isinstance(step, Mapping):
        found += step.get("text_splits", [])
        data = step.get("data") or {}
        split = data.get("split")
        if isinstance(split, Mapping) and isinstance(split.get("val_fraction"), float):
            files = [file["sha256"] for file in data.get("files", [])]
            cut = split.get("cut", False)
            fraction = split["val_fraction"]
            found.append({"val_fraction": fraction, "cut": cut, "files": files})
        step = step.get("origin")
    return found


def machine_fields(device: torch.device) -> dict[str, Any]:
    """What a measurement was made on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "gpu": gpu,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_name() -> str:
    """The processor's name as Linux gives it, elsewhere what the platform calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measured_beside(paths: Sequence[Path], labels: Labels) -> list[dict[str, Any]]:
    """What the cards of other classifiers say of their tests, to stand on the card of one that was
    trained in the same way: of folds, or of a source that only tested.

    Raises:
        CheckpointError: a card cannot be read, or lacks what a classifier's has.
        UsageError: it is of another task, or of other labels.
    """
    found = []
    for path in paths:
        source = path / CARD
        card = read_json(source)
        if card.get("task") != "classify":
            raise UsageError(f"--beside {path} is no classifier, as its card says")
        data, metrics = (field(card, name, dict, source) for name in ("data", "metrics"))
        counts = field(field(data, "split", dict, source), "counts", dict, source)
        names = sorted({name for part in counts.values() for name in part})
        if names != sorted(labels.names):
            raise UsageError(
                f"--beside {path} tells {', '.join(names)} apart; the labels of --data are "
                f"{', '.join(labels.names)}"
            )
        of = {name: metrics[name] for name in _TESTS if name in metrics}
        files = field(data, "files", list, source)
        found.append({"command": card.get("command"), "files": files, "metrics": of})
    return found


_TESTS = ("test_natural", "test_by_file", "cross_validation")


def portable_command(argv: Sequence[str]) -> str:
    """The command as another user would type it, without paths of this machine.

    Files of the directories that PENWRIGHT_DATA and PENWRIGHT_WEIGHTS name are written by these
    names, other absolute paths from the working directory, or as `…/NAME` outside of it. Relative
    paths stay as typed. `--resume` is left out, since a resumed run equals one that was never
    interrupted.
    """
    words = ["penwright-train"]
    for argument in argv:
        flag, equals, value = argument.partition("=")
        if argument == "--resume":
            continue
        if flag.startswith("--") and Path(value).is_absolute():
            words.append(flag + equals + _portable_path(Path(value)))
        elif Path(argument).is_absolute():
            words.append(_portable_path(Path(argument)))
        else:
            words.append(shlex.quote(argument))
    return " ".join(words)


def _portable_path(path: Path) -> str:
    data = os.environ.get("PENWRIGHT_DATA")
    roots = [("$PENWRIGHT_DATA/", Path(data))] if data else []
    roots += [(f"${VARIABLE}/", weights_folder())]
    for prefix, root in (*roots, ("", Path.cwd())):
        # Either may be a symbolic link: as it is written, then where it leads.
        for inner, outer in ((path, root.absolute()), (path.resolve(), root.resolve())):
            if inner.is_relative_to(outer):
                return prefix + shlex.quote(str(inner.relative_to(outer)))
    return shlex.quote(f"…/{path.name}")
