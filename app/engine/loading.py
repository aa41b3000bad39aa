"""From settings to models that are loaded, verified and in an engine each.

Adapters of one base share its engine, and so its weights and its batch. A fully fine-tuned
checkpoint has weights, and so an engine, of its own.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from app.engine.client import EngineClient
from app.engine.device import (
    choose_device,
    choose_dtype,
    choose_weight_bits,
    default_threads,
)
from app.settings import Settings
from model.checkpoint import (
    Adapter,
    Base,
    TaskName,
    adapter_base_path,
    checkpoint_name,
    golden,
    is_adapter,
    load_adapter,
    load_base,
)
from model.checkpoint.bundled import bundled_sets
from model.checkpoint.model_set import ModelSet, load_model_set
from model.classifier import UNSURE, ClassifierHead
from model.cpu.quantize import quantize, weights_of
from model.errors import CheckpointError, PenwrightError, UsageError
from model.kv_cache import BLOCK_TOKENS
from model.prompts import Template

logger = logging.getLogger(__name__)

MakeClient = Callable[[Base, Mapping[str, Adapter]], EngineClient]


@dataclass(frozen=True)
class ServedModel:
    """A model by the name that requests use."""

    name: str
    tasks: tuple[TaskName, ...]
    base: Base
    adapter: Adapter | None
    client: EngineClient

    @property
    def adapter_name(self) -> str | None:
        """The name of the adapter within the engine; None is the base alone."""
        return self.name if self.adapter is not None else None

    @property
    def head(self) -> ClassifierHead | None:
        return self.base.head if self.adapter is None else self.adapter.head

    @property
    def checkpoint(self) -> str:
        """SHA-256 of its card, which has those of all its files, and of its base's card."""
        return self.base.id if self.adapter is None else self.adapter.id

    @property
    def template(self) -> Template | None:
        """How instructions and conversations are written for it."""
        return self.base.template if self.adapter is None else self.adapter.template

    @property
    def verified(self) -> bool:
        """Whether its answers were compared with those that its card promises."""
        return self.base.verified and (self.adapter is None or bool(self.adapter.card["golden"]))

    @property
    def context_length(self) -> int:
        return self.client.engine.context_length


@dataclass(frozen=True)
class LoadedModels:
    """All that the service serves."""

    models: dict[str, ServedModel]
    defaults: dict[TaskName, str]
    """The model of a task for requests that name none."""
    clients: tuple[EngineClient, ...]


def model_set(settings: Settings) -> ModelSet:
    """The model set that `settings` name: a directory's, or one made of single checkpoints.

    Raises:
        UsageError: two different checkpoints have one name.
        CheckpointError: `models.json` cannot be used.
    """
    if settings.base is None:
        return load_model_set(settings.models or bundled_models())
    tasks: dict[TaskName, str] = {}
    paths: dict[str, Path] = {}
    named: tuple[tuple[TaskName, Path | None], ...] = (
        ("generate", settings.base),
        ("classify", settings.classify),
        ("instruct", settings.instruct),
    )
    for task, path in named:
        if path is None:
            continue
        path = path.resolve()
        name = checkpoint_name(path)
        if paths.setdefault(name, path) != path:
            raise UsageError(
                f"--{task} {path} has the same name as {paths[name]}; rename one of them"
            )
        tasks[task] = name
    return ModelSet(tasks, paths)


def bundled_models() -> Path:
    """The model set that comes with Penwright to be served.

    Raises:
        UsageError: there is none.
    """
    for path in bundled_sets():
        if path.name == "default":
            return path
    raise UsageError("there are no bundled models here; name some with --models or --base")


def load(settings: Settings, make_client: MakeClient) -> LoadedModels:
    """Load and verify all models. Blocks; for a thread other than the event loop's.

    Raises:
        CheckpointError: a checkpoint cannot be loaded, or answers other than its card says.
        UsageError: a setting does not go with what is there.
    """
    chosen = model_set(settings)
    threads = settings.threads or default_threads()
    torch.set_num_threads(threads)
    device = choose_device(settings)
    logger.info("loading models", extra={"device": str(device), "threads": threads})

    base_paths: dict[str, Path] = {}
    for name, path in chosen.paths.items():
        if not path.exists():
            raise CheckpointError(f"{path}: no such checkpoint directory")
        with _named_in_errors(path):
            if is_adapter(path):
                # With --base, that is the base: load_adapter refuses it if it is another one.
                base_paths[name] = (settings.base or adapter_base_path(path)).resolve()
            else:
                base_paths[name] = path.resolve()
    bases = {
        path: _load_base(path, settings, device) for path in dict.fromkeys(base_paths.values())
    }

    adapters: dict[Path, dict[str, Adapter]] = {path: {} for path in bases}
    for name, path in chosen.paths.items():
        if is_adapter(path):
            base = bases[base_paths[name]]
            adapters[base_paths[name]][name] = _load_adapter(path, base)
    clients = {}
    for path, base in bases.items():
        with _named_in_errors(path):
            clients[path] = make_client(base, adapters[path])
        _log_cache(path, base, clients[path])

    defaults = dict(chosen.tasks)
    if settings.base is not None and bases[settings.base.resolve()].template is not None:
        defaults.setdefault("instruct", defaults["generate"])
    models = {}
    for name in chosen.paths:
        path = base_paths[name]
        base, adapter = bases[path], adapters[path].get(name)
        tasks = tuple(task for task, of in defaults.items() if of == name)
        if adapter is None and "instruct" not in tasks and _converses(base):
            tasks = (*tasks, "instruct")
        model = ServedModel(name, tasks, base, adapter, clients[path])
        _check_tasks(model, settings)
        models[name] = model
    return LoadedModels(models, defaults, tuple(clients.values()))


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is told in a line that names the checkpoint directory."""
    try:
        yield
    except (PenwrightError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in a library written in Rust is no Exception
        logger.debug("not foreseen", exc_info=error)
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(
            f"{path}: cannot be used: {type(error).__name__}: {reason}"
        ) from error


def _load_base(path: Path, settings: Settings, device: torch.device) -> Base:
    started = time.monotonic()
    with _named_in_errors(path):
        # From weights as they are stored, which are smaller than in fp32: the peak of memory. Some
        # are kept so: those of 4 and of 8 bits in a GGUF file.
        bits, dtype = choose_weight_bits(settings), choose_dtype(settings)
        base = load_base(path, dtype=dtype, device=device, held="packed" if bits else None)
        if bits:
            quantize(base.model, bits=bits)
            if base.head is not None:
                base.head.float()
        elif settings.deterministic:
            base.model.multiply_in_tiles()
        if base.card:
            golden.verify(
                str(path),
                base.card.get("golden"),
                base.model,
                base.tokenizer,
                base.head,
                template=base.template,
            )
    weights = weights_of(base.model)
    _log_loaded(path, base.id, started, verified=base.verified, weights=weights)
    return base


def _load_adapter(path: Path, base: Base) -> Adapter:
    started = time.monotonic()
    with _named_in_errors(path):
        adapter = load_adapter(path, base)
        adapter.lora.tile = base.model.tile
        golden.verify(
            str(path),
            adapter.card.get("golden"),
            base.model,
            base.tokenizer,
            adapter.head,
            adapter.lora,
            template=adapter.template,
        )
    _log_loaded(path, adapter.id, started, verified=True)
    return adapter


def _log_loaded(
    path: Path, checkpoint: str, started: float, *, verified: bool, **extra: str
) -> None:
    seconds = round(time.monotonic() - started, 3)
    logger.info(
        "checkpoint verified" if verified else "checkpoint loaded; it has no card to verify it by",
        extra={"path": str(path), "checkpoint": checkpoint, "seconds": seconds, **extra},
    )


def _log_cache(path: Path, base: Base, client: EngineClient) -> None:
    """What the cache takes, and how long a sequence can be in it."""
    stats, length = client.stats(), client.engine.context_length
    extra = {
        "path": str(path),
        "cache_mb": stats.cache_bytes >> 20,
        "cache_tokens": stats.blocks * BLOCK_TOKENS,
        "context_length": length,
    }
    if length < base.config.context_length:
        logger.warning(
            "sequences are shorter than the model's context of %d tokens "
            "(--max-context, --cache-mb)",
            base.config.context_length,
            extra=extra,
        )
    else:
        logger.info("cache for keys and values", extra=extra)


def _converses(base: Base) -> bool:
    """Whether a base answers instructions and chats by its name, whatever does so by default."""
    return base.template is not None and base.head is None


def _check_tasks(model: ServedModel, settings: Settings) -> None:
    """Refuse a checkpoint for a task that it was not made for, or that the settings spoil."""
    made_for = model.base.task if model.adapter is None else model.adapter.task
    for task in model.tasks:
        if task == "instruct" and model.template is not None:
            continue
        if task != made_for:
            raise CheckpointError(f"{model.name}: is to answer {task}, but was made for {made_for}")
    if "classify" in model.tasks and model.head is None:
        raise CheckpointError(f"{model.name}: has no classification head")
    if settings.unsure_band and model.head and UNSURE in model.head.labels.names:
        raise UsageError(f"--unsure-band: {model.name} has a label {UNSURE!r} of its own")
