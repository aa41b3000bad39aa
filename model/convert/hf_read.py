"""GPT-2 weights of Hugging Face, as this project's network.

A directory with `config.json`, `model.safetensors` (whole or in shards) and the tokenizer's files
is read as it is, without `transformers`. Theirs is the layout that OpenAI's own weights were
published in: projections are `Conv1D`, stored (in, out) where a linear layer has (out, in), and the
attention masks are stored as buffers. What would compute something else than GPT-2 is refused by
its name, and so is a tensor that nobody uses: an import is exact or an error.
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

from model.checkpoint import TASKS, TaskName
from model.checkpoint_files import sha256
from model.classifier import ClassifierHead
from model.config import GPTConfig
from model.convert.hf_head import read_head
from model.errors import CheckpointError, UsageError
from model.gpt import GPT
from model.hf_tokenizer import read_json, read_tokenizer, tokenizer_files
from model.tokenizer import Tokenizer

CONFIG, MODEL, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
OWN = "penwright"
"""The field of `config.json` where our own export keeps what GPT-2's configuration has not."""
_CLASSIFIER = "GPT2ForSequenceClassification"

_ARITHMETIC = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
"""Fields that change what is computed, and GPT-2's values; a field that is absent has them."""

_MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
CONV1D = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
"""Our names of the projections' weights, which they store turned."""


@dataclass(frozen=True)
class Imported:
    """What a Hugging Face directory holds."""

    model: GPT
    """fp32, in evaluation mode."""
    tokenizer: Tokenizer
    files: dict[str, str]
    """SHA-256 of each file that was read, by its name."""
    head: ClassifierHead | None = None
    """Of a `GPT2ForSequenceClassification`."""
    task: TaskName | None = None
    """Which it was exported for, where our own export wrote it."""


def read_hugging_face(directory: Path) -> Imported:
    """Read a GPT-2 language model or classifier, and its tokenizer.

    Raises:
        CheckpointError: a file or tensor is missing, has another shape or is unknown, or the
            configuration is not GPT-2's; names it.
    """
    config_path = directory / CONFIG
    if not config_path.is_file():
        raise CheckpointError(f"{config_path}: is missing; not a Hugging Face model directory")
    values = read_json(config_path)
    config = _architecture(values, config_path)
    tokenizer = read_tokenizer(directory)
    if tokenizer.vocab_size > config.vocab_size:  # embeddings padded to a round number are usual
        raise CheckpointError(
            f"{config_path}: vocab_size is {config.vocab_size}, "
            f"but the tokenizer has {tokenizer.vocab_size} tokens"
        )
    end = values.get("eos_token_id")
    # One outside the vocabulary is a default that nobody adapted to a smaller vocabulary.
    if isinstance(end, int) and end < config.vocab_size and end != tokenizer.end_token:
        raise CheckpointError(
            f"{config_path}: eos_token_id is {end}, but the tokenizer's <|endoftext|> is "
            f"{tokenizer.end_token}"
        )
    weight_files = _weight_files(directory)
    model, score = _read_model(config, values, weight_files)
    read = (config_path, *weight_files, *tokenizer_files(directory))
    own = values.get(OWN)
    own = own if isinstance(own, dict) else {}
    return Imported(
        model,
        tokenizer,
        {path.name: sha256(path) for path in read},
        None if score is None else read_head(score, values, own, config_path),
        own["task"] if own.get("task") in TASKS else None,
    )


def _architecture(values: Mapping[str, Any], source: Path) -> GPTConfig:
    for name, wanted in _ARITHMETIC.items():
        if values.get(name, wanted) != wanted:
            raise CheckpointError(
                f"{source}: {name} is {values[name]!r}; only GPT-2's {wanted!r} is supported"
            )
    shape = {}
    for name in ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"):
        if name not in values:
            raise CheckpointError(f"{source}: has no {name}")
        shape[name] = values[name]
    shape["context_length"] = shape.pop("n_positions")
    try:
        config = GPTConfig(**shape)
    except UsageError as error:
        raise CheckpointError(f"{source}: {error}") from error
    if values.get("n_inner") not in (None, 4 * config.n_embd):
        raise CheckpointError(
            f"{source}: n_inner is {values['n_inner']!r}; only 4 × n_embd = {4 * config.n_embd} "
            "is supported"
        )
    return config


def _weight_files(directory: Path) -> tuple[Path, ...]:
    if (directory / MODEL).is_file():
        return (directory / MODEL,)
    index = directory / _INDEX
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        # The names come from a file: they must not lead out of the directory.
        if not names or any(name != Path(name).name for name in names):
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
    """A tensor in an open file."""

    path: Path
    file: Any
    key: str

    def read(self) -> Tensor:
        tensor: Tensor = self.file.get_tensor(self.key)
        return tensor


def _read_model(
    config: GPTConfig, values: Mapping[str, Any], files: tuple[Path, ...]
) -> tuple[GPT, Tensor | None]:
    """The network, and the classification head where there is one: (labels, n_embd)."""
    with contextlib.ExitStack() as stack:
        stored: dict[str, _Stored] = {}
        for path in files:
            try:
                file = stack.enter_context(safe_open(path, "pt"))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: not a usable safetensors file: {error}") from error
            for key in file.keys():  # noqa: SIM118  (the handle is no mapping)
                name = key.removeprefix("transformer.")
                if _MASK_BUFFER.fullmatch(name):
                    continue
                if name in stored:
                    raise CheckpointError(f"{path}: {name} is stored twice")
                stored[name] = _Stored(path, file, key)
        if _CLASSIFIER in (values.get("architectures") or ()):
            if "score.weight" not in stored:
                raise CheckpointError(f"{files[0]}: has no tensor score.weight")
            score = stored.pop("score.weight").read().float()
            return _fill(config, stored, files[0]), score
        if "score.weight" in stored:
            raise CheckpointError(
                f"{stored['score.weight'].path}: score.weight is a classification head, but "
                f"{CONFIG} does not name {_CLASSIFIER} among its architectures"
            )
        if _is_tied(stored, values.get("tie_word_embeddings", True), files[0]):
            stored.pop("lm_head.weight", None)
        else:
            config = replace(config, tied=False)
        return _fill(config, stored, files[0]), None


def _is_tied(stored: Mapping[str, _Stored], says_tied: bool, source: Path) -> bool:
    """Whether the output head is the input embedding; files that contradict themselves are
    refused, because one reading of them gives another model than the other."""
    head, embedding = stored.get("lm_head.weight"), stored.get("wte.weight")
    if head is None:
        if not says_tied:
            raise CheckpointError(
                f"{source}: has no tensor lm_head.weight, but tie_word_embeddings is false"
            )
        return True
    if embedding is not None and torch.equal(head.read(), embedding.read()):
        return True
    if says_tied:
        raise CheckpointError(
            f"{head.path}: lm_head.weight is not wte.weight, but tie_word_embeddings is not false"
        )
    return False


def _fill(config: GPTConfig, stored: dict[str, _Stored], source: Path) -> GPT:
    """A network with the stored weights in fp32; all of them must be there and be used."""
    with torch.device("meta"):
        model = GPT(config)
    weights = {}
    for name, parameter in model.state_dict().items():
        if name not in stored:
            raise CheckpointError(f"{source}: has no tensor {name}")
        entry = stored.pop(name)
        tensor = entry.read()
        wanted = tuple(parameter.T.shape if CONV1D.fullmatch(name) else parameter.shape)
        if tuple(tensor.shape) != wanted or not tensor.is_floating_point():
            raise CheckpointError(
                f"{entry.path}: {entry.key} is {tensor.dtype} of the shape {tuple(tensor.shape)}; "
                f"the configuration asks for floating-point numbers of the shape {wanted}"
            )
        tensor = tensor.T if CONV1D.fullmatch(name) else tensor
        weights[name] = tensor.float().contiguous()
    if stored:
        names = ", ".join(sorted(entry.key for entry in stored.values())[:5])
        raise CheckpointError(f"{source}: {len(stored)} unknown tensors: {names}")
    model.load_state_dict(weights, assign=True)
    return model.eval()
