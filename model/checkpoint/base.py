"""A base: a network with its tokenizer, read from a checkpoint or from another program's files."""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.architecture import Architecture
from model.checkpoint import golden
from model.checkpoint.files import (
    CARD,
    CONFIG,
    FORMAT_VERSION,
    GGUF,
    PARTS,
    SAFETENSORS,
    file_of,
    new_checkpoint,
    read_card,
    write_card,
)
from model.checkpoint.names import current_name
from model.checkpoint.settings import read_config
from model.classifier import BIAS, ClassifierHead, Labels
from model.convert.gguf_read import is_gguf, read_gguf, read_gguf_network
from model.convert.hf_read import read_hugging_face
from model.convert.tensors import Imported, check_size
from model.errors import CheckpointError, UsageError
from model.frozen import Held, place
from model.json_files import read_json, write_json
from model.prompts import Alpaca, Template, from_settings
from model.tasks import TaskName
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.weight_files import (
    assign,
    check_shapes,
    dtype_name,
    read_shapes,
    read_tensor,
    read_weights,
    sha256,
    write_weights,
)


@dataclass(frozen=True)
class Base:
    """A loaded network with its tokenizer, in evaluation mode."""

    path: Path
    id: str
    """SHA-256 of its card; without a card, `weights`."""
    task: TaskName
    config: Architecture
    model: Transformer
    tokenizer: Tokenizer
    stop_tokens: tuple[int, ...]
    """Drawn, they end a text."""
    head: ClassifierHead | None
    card: dict[str, Any]
    template: Template | None = None
    """How it was trained to read conversations, if it was."""
    template_problem: str | None = None
    """Why the chat template in its file cannot be used, if it has one that cannot."""
    weight_hashes: tuple[str, ...] = ()
    """SHA-256 of each of its weight files."""

    @property
    def weights(self) -> str:
        """What adapters know it by."""
        return identity(self.weight_hashes)

    @property
    def verified(self) -> bool:
        """Whether a card says what it must answer."""
        return bool(self.card.get("golden"))


def identity(weight_hashes: Iterable[str]) -> str:
    """What adapters know a base by: SHA-256 over the sorted SHA-256s of its weight files."""
    return hashlib.sha256("\n".join(sorted(weight_hashes)).encode()).hexdigest()


def identities(path: Path) -> frozenset[str]:
    """All that adapters may know the base at `path` by, as its card says: `identity`, and what
    format 1 had, the card's hash. None where `path` is no base with a card."""
    try:
        weights = read_config(path / CONFIG)["weights"]
        files = read_json(path / CARD).get("files")
        hashes = [files[weights]] if isinstance(files, dict) and weights in files else []
        if not all(isinstance(each, str) for each in hashes):
            return frozenset()
        return frozenset({sha256(path / CARD), *([identity(hashes)] if hashes else [])})
    except CheckpointError:
        return frozenset()


def save_base(
    out: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    card: Mapping[str, Any],
    dtype: torch.dtype = torch.bfloat16,
    head: ClassifierHead | None = None,
    task: TaskName = "generate",
    template: Template | None = None,
    gguf: Path | None = None,
    leave: bool = False,
    parts: bytes | None = None,
) -> Base:
    """Publish a network at `out`, and return it as the written files give it, in fp32.

    Args:
        dtype: of the stored weights; they are rounded to it.
        card: what is known of the checkpoint; hashes and golden outputs are added.
        template: how it was trained to read conversations; by default Alpaca's for `instruct`.
        gguf: a file that has these weights, which is copied as it is in place of writing them.
        leave: do not copy it: it is in the folder of weights (`file_of`), and named by its hash.
        parts: which rows trained it, for `parts.json`.

    Raises:
        PenwrightError: it cannot be written; what was at `out` before still is.
    """
    template = template or (Alpaca() if task == "instruct" else None)
    weights = dict(model.state_dict())
    if head is not None:
        weights.update(head.state_dict())
    stored = SAFETENSORS if gguf is None else gguf.name if leave else GGUF
    config = {
        "format_version": FORMAT_VERSION,
        "task": task,
        "architecture": model.config.to_dict(),
        "dtype": "gguf" if gguf else dtype_name(dtype),
        "weights": stored,
        "tokenizer": tokenizer.settings(),
        "template": None if template is None else template.settings(),
        "classifier": None if head is None else _classifier(head),
    }
    with new_checkpoint(out) as directory:
        write_json(directory / CONFIG, config)
        (directory / tokenizer.file_name).write_bytes(tokenizer.file_content())
        if gguf is None:
            write_weights(directory / SAFETENSORS, weights, dtype)
        elif not leave:
            shutil.copyfile(gguf, directory / GGUF)
        if parts is not None:
            (directory / PARTS).write_bytes(parts)
        left_out = {gguf.name: sha256(gguf)} if gguf and leave else {}
        write_card(directory, card, _golden(directory, task), left_out)
    return load_base(out.resolve())


def _golden(directory: Path, task: TaskName) -> list[dict[str, Any]]:
    """The golden outputs of what is in `directory`, of which nothing then stays in memory."""
    saved = _read(directory, {}, torch.float32, torch.device("cpu"))
    return golden.compute(saved.model, saved.tokenizer, saved.head, None, task, saved.template)


def load_base(
    path: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    held: Held | None = None,
) -> Base:
    """Load the checkpoint, GGUF file or Hugging Face directory at `path`; verify what has a card.

    Args:
        dtype: in which the weights are held, whatever they were stored in; None is as stored.
        held: how the matrices of a frozen network are held, in place of `dtype`. They are turned
            into it one by one: a network of another type as a whole is never in memory.

    Raises:
        CheckpointError: a file is missing, altered, of another version or shape; names it.
    """
    if is_gguf(path):
        return _foreign(path, read_gguf(path, dtype=dtype, device=device, held=held))
    if is_hugging_face(path):
        return _foreign(path, read_hugging_face(path, dtype=dtype, device=device, held=held))
    card = read_card(path, (CONFIG,))
    return _read(path, card, dtype, torch.device(device), held)


def checkpoint_name(path: Path) -> str:
    """By which requests ask for what is at `path`: the directory's name, or the file's without its
    ending."""
    return path.stem if path.suffix == ".gguf" else path.name


def is_hugging_face(path: Path) -> bool:
    """Whether `path` is a directory of another program: it has no card, and its `config.json` no
    format version."""
    config = path / CONFIG
    return (
        config.is_file()
        and not (path / CARD).exists()
        and "format_version" not in read_json(config)
    )


def _foreign(path: Path, imported: Imported) -> Base:
    task: TaskName = "generate" if imported.head is None else "classify"
    if imported.template is not None:
        imported.template.check(imported.tokenizer, path)
    base = Base(
        path=path,
        id="",
        task=task,
        config=imported.model.config,
        model=imported.model,
        tokenizer=imported.tokenizer,
        stop_tokens=imported.tokenizer.special.stop,
        head=imported.head,
        card={},
        template=imported.template,
        template_problem=imported.template_problem,
        weight_hashes=tuple(imported.files[name] for name in imported.weights),
    )
    return replace(base, id=base.weights)


def _read(
    path: Path,
    card: dict[str, Any],
    dtype: torch.dtype | None,
    device: torch.device,
    held: Held | None = None,
) -> Base:
    source = path / CONFIG
    config = read_config(source)
    architecture = Architecture.from_dict(config["architecture"], str(source))
    tokenizer = Tokenizer.from_file(path, config["tokenizer"])
    if tokenizer.vocab_size > architecture.vocab_size:
        raise CheckpointError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the network only {architecture.vocab_size}"
        )
    weights = file_of(path, config["weights"])
    for file in (weights, path / tokenizer.file_name):
        if card and file.name not in card["files"]:
            raise CheckpointError(f"{path / CARD}: has no hash of {file.name}")
    stop_tokens = tuple(config.get("stop_tokens", tokenizer.special.stop))
    if not all(type(t) is int and 0 <= t < architecture.vocab_size for t in stop_tokens):
        raise CheckpointError(f"{source}: stop_tokens {list(stop_tokens)} are not all token ids")
    template = None
    if config["template"] is not None:
        template = from_settings(config["template"], source)
        template.check(tokenizer, source)
    labels, head, pooling = None, None, "last"
    if config["classifier"] is not None:
        classifier = dict(config["classifier"])
        pooling = classifier.pop("pooling", pooling)
        labels = labels_from(classifier, source)
    if weights.suffix == ".gguf":
        if labels is not None:
            raise CheckpointError(f"{source}: a GGUF file has no classification head")
        model = read_gguf_network(weights, architecture, dtype=dtype, device=device, held=held)
    else:
        shapes = read_shapes(weights)
        check_size(architecture, len(shapes), weights.stat().st_size, source)
        with torch.device("meta"):
            model = Transformer(architecture)
            if labels is not None:
                head = head_from(architecture, labels, pooling, source, BIAS in shapes)
        modules: list[nn.Module] = [model] if head is None else [model, head]
        old = config["format_version"] == 1
        names = {current_name(name) if old else name: name for name in shapes}
        if held:
            check_shapes(modules, {name: shapes[names[name]] for name in names}, weights)
            for module in modules:
                for name in module.state_dict():
                    tensor = read_tensor(weights, names[name]).to(device)
                    place(module, name, tensor, held)
        else:
            tensors = read_weights(weights, dtype, device)
            assign(modules, {name: tensors[names[name]] for name in names}, weights)
    return Base(
        path=path,
        id=sha256(path / CARD) if card else "",
        task=config["task"],
        config=architecture,
        model=model.eval(),
        tokenizer=tokenizer,
        stop_tokens=stop_tokens,
        head=head.eval() if head is not None else None,
        card=card,
        template=template,
        weight_hashes=(card["files"][weights.name],) if card else (),
    )


def _classifier(head: ClassifierHead) -> dict[str, Any]:
    """A head as `config.json` has it, where it reads the last token alone as ever."""
    return asdict(head.labels) | ({"pooling": head.pooling} if head.pooling != "last" else {})


def head_from(
    config: Architecture, labels: Labels, pooling: Any, source: Path, biased: bool
) -> ClassifierHead:
    """A head as a settings file describes it, for weights to be put into.

    Raises:
        CheckpointError: there is no such pooling.
    """
    try:
        return ClassifierHead(config.n_embd, labels, bias=biased, pooling=pooling)
    except UsageError as error:
        raise CheckpointError(f"{source}: {error}") from error


def labels_from(values: Mapping[str, Any], source: Path) -> Labels:
    """The labels of a head, as a settings file has them."""
    try:
        return Labels(**{**values, "names": tuple(values["names"])})
    except (UsageError, TypeError, KeyError) as error:
        raise CheckpointError(f"{source}: {error}") from error
