"""The systems that are compared, each behind the interface of `base.System`.

A module here is imported by the worker process of its system alone: a peer that is not installed
is shown as missing, and disturbs nothing.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.systems.base import System

SYSTEMS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "penwright": ("penwright.Penwright", {}),
    "penwright-int8": ("penwright.Penwright", {"held": None}),
    "penwright-fp32": ("penwright.Penwright", {"quantize": False}),
    "only reading": ("reading.Reading", {}),
    "transformers-fp32": ("hugging_face.HuggingFace", {"dtype": "float32"}),
    "transformers-bf16": ("hugging_face.HuggingFace", {"dtype": "bfloat16"}),
    "ctranslate2-int8": ("ctranslate2_peer.CTranslate2", {}),
    "llama.cpp-q8_0": ("llama_cpp_peer.LlamaCpp", {"kind": "q8_0"}),
    "llama.cpp-f16": ("llama_cpp_peer.LlamaCpp", {"kind": "f16"}),
    "llama.cpp-q4_0": ("llama_cpp_peer.LlamaCpp", {"kind": "q4_0"}),
    "llama.cpp-q4_1": ("llama_cpp_peer.LlamaCpp", {"kind": "q4_1"}),
    "openvino-q4_1": ("openvino_peer.OpenVINO", {"kind": "q4_1"}),
}
"""Where each system is, and its options."""

TRAINERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "training-penwright": ("training.penwright.Penwright", {}),
    "training-nanogpt": ("training.nanogpt.NanoGPT", {}),
    "training-trainer": ("training.hugging_face.HuggingFace", {}),
    "training-book": ("training.book.Book", {}),
    "lora-penwright": ("lora.penwright.Penwright", {}),
    "lora-peft": ("lora.peft_peer.Peft", {}),
    "lora-litgpt": ("lora.litgpt_peer.LitGPT", {}),
}
"""The training loops, of another interface: `training.base.TrainingSystem`."""

OURS = "penwright"
NO_PEERS = (OURS, "only reading")
"""What these names begin is no other engine."""
COMPARED: Mapping[str, tuple[str, ...]] = {
    "gpt2": (
        *(OURS, "transformers-fp32", "transformers-bf16", "ctranslate2-int8"),
        "llama.cpp-q8_0",
    ),
    "smollm2": (
        *(OURS, "penwright-int8", "only reading", "llama.cpp-q4_0", "llama.cpp-q4_1"),
        *("llama.cpp-q8_0", "ctranslate2-int8", "transformers-bf16"),
    ),
    "llama-1b": (OURS, "only reading", "llama.cpp-q4_0"),
}
"""Who is compared on each model."""


def load(name: str, work: Path, threads: int, **more: Any) -> System:
    """Load the system called `name`, with `more` options.

    Raises:
        ImportError: its package is not installed.
    """
    place, options = {**SYSTEMS, **TRAINERS}[name]
    module, _, kind = place.rpartition(".")
    make: type[System] = getattr(importlib.import_module(f"benchmarks.systems.{module}"), kind)
    return make(work, threads, **{**options, **more})
