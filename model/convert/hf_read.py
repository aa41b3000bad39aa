"""A Hugging Face directory as one of our networks.

A directory with `config.json`, `model.safetensors` (whole or in shards) and the tokenizer's files
is read as it is, without `transformers`. GPT-2's is the layout that OpenAI's own weights were
published in: projections are `Conv1D`, stored (in, out) where a linear layer has (out, in), and the
attention masks are stored as buffers.
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.convert.families import FAMILIES, HF_PREFIX
from model.convert.hf_config import read_architecture, says_tied
from model.convert.hf_head import read_head
from model.convert.tensors import Imported, check_size, fill
from model.errors import CheckpointError
from model.frozen import Held
from model.json_files import field, list_field, read_json, shown
from model.prompts import find_template
from model.tasks import TASKS
from model.tokenizer.hugging_face import named_tokens, read_tokenizer, tokenizer_files
from model.weight_files import read_tensor, sha256

CONFIG, MODEL, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
OWN = "penwright"
"""The field of `config.json` where our own export keeps what theirs has not."""

_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|.*\.rotary_emb\.inv_freq")
"""Stored with the weights, and none: GPT-2's masks, and frequencies of older Llamas."""
CONV1D = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
"""GPT-2's projections' weights, which are stored turned."""


@dataclass(frozen=True)
class _Classifier:
    """The class of a family's classifiers."""

    name: str
    named: bool
    """Whether the configuration names it."""


def read_hugging_face(
    directory: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    held: Held | None = None,
) -> Imported:
    """Read a language model or a classifier, and its tokenizer.

    Args:
        dtype: in which the weights are held; None is as they are stored.
        held: how the matrices of a frozen network are held, in place of `dtype`.

    Raises:
        CheckpointError: a file or tensor is missing, has another shape or is unknown, or the
            configuration is of no family that is known here; names it.
    """
    config_path = directory / CONFIG
    if not config_path.is_file():
        raise CheckpointError(f"{config_path}: is missing; not a Hugging Face model directory")
    values = read_json(config_path)
    config = read_architecture(values, config_path)
    classifier = _classifier(values, config_path)
    tokenizer = read_tokenizer(directory)
    if tokenizer.vocab_size > config.vocab_size:  # embeddings padded to a round number are usual
        raise CheckpointError(
            f"{config_path}: vocab_size is {config.vocab_size}, "
            f"but the tokenizer has {tokenizer.vocab_size} tokens"
        )
    files = _weight_files(directory)
    with contextlib.ExitStack() as stack:
        stored = _open(files, values["model_type"], stack)
        check_size(config, len(stored), sum(path.stat().st_size for path in files), config_path)
        score = _score(stored, classifier, files[0])
        tied = score is not None or _is_tied(stored, says_tied(values, config_path), files[0])
        table = FAMILIES[values["model_type"]].hugging_face
        if tied:
            stored.pop("lm_head.weight", None)
        config = replace(config, tied=tied)
        network = fill(config, table, stored, files[0], dtype=dtype, device=device, held=held)
    own = _own(values, config_path)
    head = None if score is None else read_head(score, config, values, own, config_path)
    text, template_files = _template(directory)
    names = named_tokens(directory)
    found = find_template(text, tokenizer.special.ids, names["bos_token"], names["eos_token"])
    read = (config_path, *files, *tokenizer_files(directory), *template_files)
    return Imported(
        network,
        tokenizer,
        {path.name: sha256(path) for path in read},
        tuple(path.name for path in files),
        found.template,
        found.problem,
        head,
        own["task"] if own.get("task") in TASKS else None,
    )


def _own(values: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """What our export added, after a look at the types of all that a head is read from."""
    optional = type(None)
    field(values, "id2label", (dict, optional), source, None)
    own: dict[str, Any] = field(values, OWN, (dict, optional), source, None) or {}
    field(own, "positive", (str, optional), f"{source}: {OWN}", None)
    field(own, "threshold", float, f"{source}: {OWN}", 0.5)
    return own


def _classifier(values: Mapping[str, Any], source: Path) -> _Classifier:
    """The family's class of classifiers, and whether it is one; what is neither that nor a language
    model is refused."""
    classifier = FAMILIES[values["model_type"]].classifier_class
    names = list_field(values, "architectures", str, source, None) or []
    unknown = [n for n in names if n != classifier and not n.endswith(("ForCausalLM", "HeadModel"))]
    if unknown:
        raise CheckpointError(
            f"{source}: architectures has {shown(unknown[0])}; it must be a language model "
            f"(…ForCausalLM, GPT2LMHeadModel) or, as model_type is {values['model_type']!r}, "
            f"{classifier}"
        )
    return _Classifier(classifier, classifier in names)


def _weight_files(directory: Path) -> tuple[Path, ...]:
    if (directory / MODEL).is_file():
        return (directory / MODEL,)
    index = directory / _INDEX
    if index.is_file():
        weight_map = field(read_json(index), "weight_map", dict, index)
        names = set(map(str, weight_map.values()))
        # The names come from a file: they must not lead out of the directory.
        if not names or any(name != Path(name).name or name in ("", "..") for name in names):
            raise CheckpointError(f"{index}: weight_map must name files of this directory")
        for name in sorted(names):
            if not (directory / name).is_file():
                raise CheckpointError(f"{directory / name}: is missing; {_INDEX} names it")
        return (*(directory / name for name in sorted(names)),)
    if any(directory.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"{directory}: holds pytorch_model.bin, a pickle, which is never loaded here; "
            f"convert it to {MODEL}"
        )
    raise CheckpointError(f"{directory / MODEL}: is missing")


@dataclass(frozen=True)
class _Stored:
    """A tensor in an open safetensors file."""

    source: Path
    file: Any
    name: str
    turned: bool

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.file.get_slice(self.name).get_shape())
        return shape[::-1] if self.turned else shape

    def read(self, dtype: torch.dtype | None) -> Tensor:
        tensor = read_tensor(self.source, self.name)
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise CheckpointError(
                f"{self.source}: {self.name} is {str(tensor.dtype).removeprefix('torch.')}; "
                "weights must be stored as floating-point numbers"
            )
        tensor = tensor.T if self.turned else tensor
        return tensor if dtype is None else tensor.to(dtype)

    def packed(self) -> None:
        """No file of this kind has blocks."""


def _open(files: tuple[Path, ...], family: str, stack: contextlib.ExitStack) -> dict[str, _Stored]:
    """The tensors by their names; buffers, which are no weights, are left out."""
    stored: dict[str, _Stored] = {}
    for path in files:
        try:
            file = stack.enter_context(safe_open(path, "pt"))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a usable safetensors file: {error}") from error
        for key in file.keys():  # noqa: SIM118  (the handle is no mapping)
            name = key.removeprefix(HF_PREFIX)
            if _BUFFER.fullmatch(name):
                continue
            if name in stored:
                raise CheckpointError(f"{path}: {name} is stored twice")
            turned = family == "gpt2" and CONV1D.fullmatch(name) is not None
            stored[name] = _Stored(path, file, key, turned)
    return stored


def _score(stored: dict[str, _Stored], classifier: _Classifier, source: Path) -> Tensor | None:
    """The classification head of a classifier, taken out of `stored`: (labels, n_embd) fp32."""
    entry = stored.pop("score.weight", None)
    if classifier.named and entry is None:
        raise CheckpointError(f"{source}: has no tensor score.weight")
    if entry is not None and not classifier.named:
        raise CheckpointError(
            f"{entry.source}: score.weight is a classification head, but {CONFIG} does not name "
            f"{classifier.name} among its architectures"
        )
    return None if entry is None else entry.read(torch.float32)


def _is_tied(stored: Mapping[str, _Stored], says: bool, source: Path) -> bool:
    """Whether the output head is the input embedding; files that contradict themselves are
    refused, because one reading of them gives another model than the other."""
    head = stored.get("lm_head.weight")
    embedding = stored.get("wte.weight") or stored.get("model.embed_tokens.weight")
    if head is None:
        if not says:
            raise CheckpointError(
                f"{source}: has no tensor lm_head.weight, but tie_word_embeddings is false"
            )
        return True
    if (
        embedding is not None
        and head.shape == embedding.shape
        and torch.equal(head.read(None), embedding.read(None))
    ):
        return True
    if says:
        raise CheckpointError(
            f"{head.source}: lm_head.weight is not {embedding.name if embedding else 'there twice'}"
            ", but tie_word_embeddings is not false"
        )
    return False


def _template(directory: Path) -> tuple[object, tuple[Path, ...]]:
    """The chat template, whatever it is, and the file of its own that it was read from."""
    whole, settings = directory / "chat_template.jinja", directory / "tokenizer_config.json"
    if whole.is_file():
        try:
            return whole.read_text(encoding="utf-8-sig"), (whole,)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{whole}: cannot be read: {error}") from error
    if not settings.is_file():
        return None, ()
    return read_json(settings).get("chat_template"), ()
