"""litgpt's own loop, `litgpt.finetune.lora.fit`, unchanged, on its own network.

The package asks for an older `huggingface-hub` than `transformers` has, so it lies in a directory
of its own, which the user names (`--litgpt DIR`). The weights are turned by its own
`copy_weights_hf_llama`. Its loop has no clipping: the optimizer that it is given clips before each
step. Its head is a copy of the embedding; neither learns.
"""

import importlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.systems.training import base
from benchmarks.systems.training.loops import Loop
from training.loop.memory import keep_freed_memory


class LitGPT(base.TrainingSystem):
    """
    Args:
        source: the directory that holds `litgpt`, and `lightning` and what these import.
        precision: of its Fabric: 32-true, bf16-mixed (autocast), or bf16-true: weights, adapters
            and optimizer state in bf16.
        fused: AdamW in one kernel.
        keep_memory: freed memory stays with the process, as ours keeps it.
    """

    def __init__(
        self,
        work: Path,
        threads: int,
        *,
        shape: dict[str, Any],
        device: str,
        source: str = "",
        precision: str = "32-true",
        fused: bool = False,
        keep_memory: bool = False,
    ) -> None:
        if source:
            sys.path.insert(0, source)
        try:
            self._script: Any = importlib.import_module("litgpt.finetune.lora")
        except ImportError as error:
            raise ImportError(
                f"{error}: name a directory that holds litgpt with --litgpt DIR"
            ) from error
        torch.set_num_threads(threads)
        if keep_memory:
            keep_freed_memory()
        self.shape = tuned = base.Tuned(**shape)
        self.device = torch.device(device)
        self._work = work
        self._fabric = self._script.L.Fabric(accelerator=device, devices=1, precision=precision)
        self._fabric.launch()
        network = self._network(work / "hugging-face", tuned).to(self.device)
        # In its own autocast, but outside of its wrapper, which asks for its own `backward`.
        with self._fabric.autocast():
            self.proof = base.prove(network, network, work, tuned, self.device, "fp32")
        self._model = self._fabric.setup_module(network).train()
        self._optimizer = self._fabric.setup_optimizers(
            _Clipping(
                (p for p in self._model.parameters() if p.requires_grad),
                lr=base.LR,
                weight_decay=base.WEIGHT_DECAY,
                betas=base.BETAS,
                fused=fused or None,
            )
        )
        self.loop = Loop(self._main, threads)
        self.loop.start()
        self.settings = {
            "precision": precision,
            "fused": fused,
            "keep_memory": keep_memory,
            "litgpt": importlib.metadata.version("litgpt"),
            "lightning": importlib.metadata.version("lightning"),
            "torch": torch.__version__,
        }

    def _network(self, directory: Path, tuned: base.Tuned) -> Any:
        config = _config(self._script.Config, directory, tuned)
        with self._fabric.init_module(empty_init=False):
            model = self._script.GPT(config)
        self._script.mark_only_lora_as_trainable(model)
        convert: Any = importlib.import_module("litgpt.scripts.convert_hf_checkpoint")
        weights: dict[str, Tensor] = {}
        theirs = load_file(directory / "model.safetensors")
        convert.copy_weights_hf_llama(config, {}, weights, theirs)
        found = model.load_state_dict(weights, strict=False)
        if found.unexpected_keys or any("lora_" not in name for name in found.missing_keys):
            raise RuntimeError(f"the weights do not fit its network: {found}")
        return model

    def _main(self, loop: Loop) -> None:
        examples = _Examples(self._work, self.shape.context)
        batches = _Batches(loop, examples, self.shape.batch)
        steps: dict[str, Any] = {"max_steps": base.STEPS, "lr_warmup_steps": base.WARMUP}
        self._script.fit(
            fabric=self._fabric,
            model=self._model,
            optimizer=self._optimizer,
            scheduler=self._script.get_lr_scheduler(
                self._optimizer, warmup_steps=base.WARMUP, max_steps=base.STEPS
            ),
            train_dataloader=batches,
            val_dataloader=torch.utils.data.DataLoader(examples, batch_size=1),
            devices=1,
            checkpoint_dir=self._work / "hugging-face",
            out_dir=base.scratch(self._work),
            train=self._script.TrainArgs(
                save_interval=None,
                global_batch_size=self.shape.batch,
                micro_batch_size=self.shape.batch,
                epochs=base.STEPS,
                **steps,
            ),
            eval=self._script.EvalArgs(interval=base.STEPS, max_new_tokens=1),
            data=None,
        )


class _Clipping(torch.optim.AdamW):
    """Clips the gradients before each step."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], base.CLIP)
        return super().step(closure)


class _Examples(torch.utils.data.Dataset[dict[str, Any]]):
    """Windows as its loop takes them: it shifts the labels itself, and counts tokens."""

    def __init__(self, work: Path, context: int) -> None:
        self._windows = base.Windows(work, context)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs, _ = self._windows[index]
        count = torch.tensor([len(inputs)])
        counts = {"raw": count, "raw_plus_prompt_template": count}
        return {"input_ids": inputs, "labels": inputs, "token_counts": counts}


class _Batches:
    """What its loop takes for a loader."""

    def __init__(self, loop: Loop, examples: _Examples, batch: int) -> None:
        self.dataset = examples
        self._loop = loop
        self._loader: torch.utils.data.DataLoader[dict[str, Any]]
        self._loader = torch.utils.data.DataLoader(
            examples, batch_size=batch, shuffle=True, drop_last=True
        )

    def __iter__(self) -> Iterator[Any]:
        return self._loop.batches(self._loader)


def _config(config: Any, directory: Path, tuned: base.Tuned) -> Any:
    """As its own list of models has a Llama, with adapters on all layers but the head.

    Raises:
        NotImplementedError: the network is no plain Llama.
    """
    values = json.loads((directory / "config.json").read_text("utf-8"))
    if values["model_type"] != "llama" or not values["tie_word_embeddings"]:
        raise NotImplementedError(f"a {values['model_type']} with such a head is not compared")
    rotary = values.get("rope_parameters") or values
    if rotary.get("rope_type", "default") != "default":
        raise NotImplementedError(
            f"rotary positions of type {rotary['rope_type']} are not compared"
        )
    on_all = ("query", "key", "value", "projection", "mlp")
    return config(
        name="compared",
        block_size=values["max_position_embeddings"],
        vocab_size=values["vocab_size"],
        padded_vocab_size=values["vocab_size"],
        n_layer=values["num_hidden_layers"],
        n_head=values["num_attention_heads"],
        n_embd=values["hidden_size"],
        n_query_groups=values["num_key_value_heads"],
        intermediate_size=values["intermediate_size"],
        norm_eps=values["rms_norm_eps"],
        rope_base=int(rotary["rope_theta"]),
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        lora_r=tuned.rank,
        lora_alpha=tuned.alpha,
        **{f"lora_{name}": True for name in on_all},
    )
