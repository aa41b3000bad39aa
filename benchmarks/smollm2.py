"""SmolLM2-135M-Instruct, the real file, in the format of each system that is compared on it.

`make weights` fetches it. Ours and llama.cpp read it as it is (Q4_1); llama.cpp's own tool makes
other kinds of it, and our export what `transformers` and CTranslate2 read.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.gpt2 import LABELS, Files, made, write_adapter
from model.checkpoint import load_base
from model.checkpoint.weights_folder import weights_folder
from model.convert.hf_write import write_hugging_face
from model.lora import LoRASettings

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
VOCAB = 49152


def file() -> Path:
    """The file, in the folder that PENWRIGHT_WEIGHTS names.

    Raises:
        SystemExit: it is not there.
    """
    path = weights_folder() / NAME
    if not path.is_file():
        raise SystemExit(f"{path} is not there: run `make weights`")
    return path


def prepare(work: Path) -> Files:
    """Write what is not there yet."""
    files = Files(work)
    made(files.gguf("q4_1"), lambda out: out.symlink_to(file()))
    made(work / "penwright.gguf", lambda out: out.symlink_to(file()))
    made(files.hugging_face, lambda out: _write_hugging_face(out, files))
    made(
        files.head,
        lambda out: write_adapter(out, load_base(files.penwright), LoRASettings(rank=0), seed=10),
    )
    made(files.hugging_face_classifier, lambda out: _write_classifier(out, files))
    return files


def _write_hugging_face(out: Path, files: Files) -> None:
    out.mkdir()
    write_hugging_face(out, load_base(files.penwright), torch.float32)


def _write_classifier(out: Path, files: Files) -> None:
    """The base and the head of `head`, for `LlamaForSequenceClassification`."""
    out.mkdir()
    config = json.loads((files.hugging_face / "config.json").read_text(encoding="utf-8"))
    config |= {
        "architectures": ["LlamaForSequenceClassification"],
        "num_labels": len(LABELS.names),
        "pad_token_id": 0,
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    score = load_file(files.head / "adapter.safetensors")["score.weight"].float()
    weights = load_file(files.hugging_face / "model.safetensors")
    save_file({**weights, "score.weight": score}, out / "model.safetensors", {"format": "pt"})
