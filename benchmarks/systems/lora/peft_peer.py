"""The package `peft` on `transformers`, in the latter's real `Trainer`."""

import importlib
from pathlib import Path
from typing import Any

import torch

from benchmarks.systems.training import base, hugging_face
from benchmarks.systems.training.hugging_face import transformers
from training.loop.memory import keep_freed_memory

peft: Any = importlib.import_module("peft")
"""Untyped."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Peft(hugging_face.HuggingFace):
    """Adapters on all linear layers but the head. Fused AdamW is the trainer's own default.

    Args:
        weights: the base's, as it is loaded: fp32 or bf16.
        adapters: fp32, as peft has them by its `autocast_adapter_dtype` even on a base in bf16, or
            as the base's weights (`weights`).
        precision: fp32, or bf16 for the trainer's flag `bf16` (autocast).
        attention: sdpa or eager.
        compile: the trainer's flag `torch_compile`.
        keep_memory: freed memory stays with the process, as ours keeps it.
    """

    def __init__(
        self,
        work: Path,
        threads: int,
        *,
        shape: dict[str, Any],
        device: str,
        weights: str = "fp32",
        adapters: str = "fp32",
        precision: str = "fp32",
        attention: str = "sdpa",
        compile: bool = False,
        keep_memory: bool = False,
    ) -> None:
        torch.set_num_threads(threads)
        if keep_memory:
            keep_freed_memory()
        transformers.logging.set_verbosity_error()
        self.shape = tuned = base.Tuned(**shape)
        self.device = torch.device(device)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            work / "hugging-face", dtype=_DTYPES[weights], attn_implementation=attention
        )
        config = peft.LoraConfig(
            r=tuned.rank,
            lora_alpha=tuned.alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=adapters == "fp32")
        self.start(model.to(self.device).train(), work, threads, precision, compile)
        self.settings |= {
            "weights": weights,
            "adapters": adapters,
            "keep_memory": keep_memory,
            "peft": peft.__version__,
        }
