"""`transformers`: `GPT2LMHeadModel` in its real `Trainer`."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpt2 import hugging_face_config
from benchmarks.systems.training import base
from benchmarks.systems.training.loops import Loop
from model.architecture import Architecture
from model.convert.hf_write import hugging_face_weights
from training.loop.memory import keep_freed_memory

transformers: Any = importlib.import_module("transformers")
"""Untyped."""


class HuggingFace(base.TrainingSystem):
    """As it comes: fused AdamW, SDPA attention and no cache are its own defaults by now.

    Args:
        precision: fp32, or bf16 for its flag `bf16`.
        compile: its flag `torch_compile`.
        keep_memory: freed memory stays with the process, as ours keeps it.
    """

    def __init__(
        self,
        work: Path,
        threads: int,
        *,
        shape: dict[str, Any],
        device: str,
        precision: str = "fp32",
        compile: bool = False,
        keep_memory: bool = False,
    ) -> None:
        torch.set_num_threads(threads)
        if keep_memory:
            keep_freed_memory()
        transformers.logging.set_verbosity_error()
        shaped = base.Shape(**shape)
        self.shape, self.device = shaped, torch.device(device)
        model = _network(shaped, base.weights_of(work)).to(self.device).train()
        self.start(model, work, threads, precision, compile)
        self.settings["keep_memory"] = keep_memory

    def start(self, model: Any, work: Path, threads: int, precision: str, compile: bool) -> None:
        """Prove the network, and run the trainer's loop up to the first step."""
        self.network = model
        self.proof = base.prove(
            model,
            lambda tokens: model(tokens, use_cache=False).logits,
            work,
            self.shape,
            self.device,
            precision,
        )
        arguments = transformers.TrainingArguments(
            output_dir=str(base.scratch(work)),
            max_steps=base.STEPS,
            per_device_train_batch_size=self.shape.batch,
            learning_rate=base.LR,
            lr_scheduler_type="cosine",
            warmup_steps=base.WARMUP,
            weight_decay=base.WEIGHT_DECAY,
            adam_beta1=base.BETAS[0],
            adam_beta2=base.BETAS[1],
            max_grad_norm=base.CLIP,
            save_strategy="no",
            report_to="none",
            use_cpu=self.device.type == "cpu",
            bf16=precision == "bf16",
            torch_compile=compile,
        )
        self._trainer = transformers.Trainer(
            model, arguments, train_dataset=_Examples(work, self.shape.context)
        )
        self.loop = Loop(self._main, threads)
        self.loop.start()
        self.settings = {
            "optimizer": str(arguments.optim),
            "attention": model.config._attn_implementation,
            "autocast": arguments.bf16,
            "compile": compile,
            "transformers": transformers.__version__,
            "accelerate": importlib.import_module("accelerate").__version__,
            "torch": torch.__version__,
        }

    def _main(self, loop: Loop) -> None:
        class Stop(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *arguments: Any, **more: Any) -> None:
                loop.between_steps()

        self._trainer.add_callback(Stop())
        self._trainer.train()


class _Examples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Windows as the trainer takes them: it shifts the labels itself."""

    def __init__(self, work: Path, context: int) -> None:
        self._windows = base.Windows(work, context)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        inputs, _ = self._windows[index]
        return {"input_ids": inputs, "labels": inputs}


def _network(shape: base.Shape, weights: dict[str, Tensor]) -> Any:
    config = Architecture(
        shape.vocab_size,
        shape.context,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
    )
    values = hugging_face_config(config, "GPT2LMHeadModel")
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config(**values, **dropout))
    named = hugging_face_weights(weights)
    named["lm_head.weight"] = named["transformer.wte.weight"]
    network.load_state_dict(named)
    return network
