"""nanoGPT's own `train.py`, unchanged, from a clone that the user names (`--nanogpt DIR`).

It runs as from the command line: options as flags, the text as a dataset of its own with
`meta.pkl`, the shared weights as a checkpoint that it resumes. Its line `iter N: loss …`, the last
thing of each step, is where it is stopped. Biases are on, as GPT-2 has them; GELU is the exact
one, as nanoGPT has it.
"""

import builtins
import os
import pickle
import re
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.systems.training import base
from benchmarks.systems.training.loops import Loop
from training.loop.memory import keep_freed_memory

_LAYERS = {
    "embedding": "wte",
    "positions": "wpe",
    "norm": "ln_f",
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
"""Its names for ours, which `model.convert` knows as well: but here `model` is nanoGPT's."""


def its_name(name: str) -> str:
    """nanoGPT's name of a tensor of ours."""
    path, _, kind = name.rpartition(".")
    if not path.startswith("blocks."):
        return f"transformer.{_LAYERS[path]}.{kind}"
    _, number, layer = path.split(".", 2)
    return f"transformer.h.{number}.{_LAYERS[layer]}.{kind}"


class NanoGPT(base.TrainingSystem):
    """
    Args:
        source: the clone.
        precision: fp32 or bf16. On a CPU its own option does nothing: the loop then runs in
            autocast as a whole.
        fused: the optimizer in one kernel; its own choice on a GPU, on a CPU set in the
            checkpoint that it resumes.
        keep_memory: freed memory stays with the process, as ours keeps it.
        compile: its own flag.
    """

    shape: base.Shape

    def __init__(
        self,
        work: Path,
        threads: int,
        *,
        shape: dict[str, Any],
        device: str,
        source: str = "",
        precision: str = "fp32",
        fused: bool = False,
        keep_memory: bool = False,
        compile: bool = False,
    ) -> None:
        if not source or not Path(source, "train.py").is_file():
            raise ImportError("nanoGPT: name a clone of karpathy/nanoGPT with --nanogpt DIR")
        torch.set_num_threads(threads)
        if keep_memory:
            keep_freed_memory()
        self.shape, self.device = base.Shape(**shape), torch.device(device)
        os.chdir(source)  # it opens configurator.py beside it
        sys.path.insert(0, str(source))
        out = base.scratch(work)
        self._write_checkpoint(work, out, fused, precision)
        (work / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": self.shape.vocab_size}))
        on_cpu = self.device.type == "cpu"
        sys.argv[1:] = [
            "--init_from=resume",
            f"--out_dir={out}",
            f"--dataset={work.resolve()}",
            f"--device={device}",
            f"--dtype={'bfloat16' if precision == 'bf16' else 'float32'}",
            f"--compile={compile}",
            f"--batch_size={self.shape.batch}",
            f"--block_size={self.shape.context}",
            "--gradient_accumulation_steps=1",
            "--bias=True",
            f"--learning_rate={base.LR}",
            f"--warmup_iters={base.WARMUP}",
            f"--max_iters={base.STEPS}",
            f"--lr_decay_iters={base.STEPS}",
            f"--eval_interval={base.STEPS}",
            "--eval_iters=1",
        ]
        self._outer = precision if on_cpu else "fp32"
        self.loop = Loop(self._main, threads)
        self.loop.start()
        (out / "ckpt.pt").unlink()  # large, and read by now
        self.settings = {
            "flags": [flag for flag in sys.argv[1:] if "_dir" not in flag and "dataset" not in flag]
        }
        self.settings |= {"fused": fused or not on_cpu, "keep_memory": keep_memory}
        self.settings |= {"autocast": precision == "bf16", "torch": torch.__version__}

    def _write_checkpoint(self, work: Path, out: Path, fused: bool, precision: str) -> None:
        """What its `init_from = 'resume'` reads, at step 0."""
        network: Any = __import__("model")  # its model.py, not our package
        arguments = {
            "n_layer": self.shape.n_layer,
            "n_head": self.shape.n_head,
            "n_embd": self.shape.n_embd,
            "block_size": self.shape.context,
            "bias": True,
            "vocab_size": self.shape.vocab_size,
        }
        gpt = network.GPT(network.GPTConfig(**arguments, dropout=0.0))
        weights = {its_name(name): value for name, value in base.weights_of(work).items()}
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
        gpt.load_state_dict(weights)
        gpt.to(self.device)

        def logits(tokens: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = gpt(tokens, tokens)[0]  # without targets only the last ones
            return out

        self.proof = base.prove(gpt, logits, work, self.shape, self.device, precision)
        optimizer = gpt.configure_optimizers(
            base.WEIGHT_DECAY, base.LR, base.BETAS, self.device.type
        )
        state = optimizer.state_dict()
        if fused:
            for group in state["param_groups"]:
                group.update(fused=True, foreach=False)
        checkpoint = {
            "model": gpt.state_dict(),
            "optimizer": state,
            "model_args": arguments,
            "iter_num": 0,
            "best_val_loss": 1e9,
        }
        torch.save(checkpoint, out / "ckpt.pt")

    def _main(self, loop: Loop) -> None:
        def printed(*values: Any, **how: Any) -> None:
            builtins.print(*values, **how)
            match = re.match(r"iter (\d+): loss ([\d.]+|nan)", str(values[0]) if values else "")
            if match is None:
                return
            if match[1] == "0":
                self._check_first(float(match[2]))
            loop.between_steps()

        with warnings.catch_warnings(), base.precision_of(self._outer, self.device):
            warnings.simplefilter("ignore")  # of torch, about what train.py still uses
            runpy.run_path("train.py", {"print": printed}, run_name="__main__")

    def _check_first(self, loss: float) -> None:
        """That it did resume the shared weights: another batch, so about the same loss."""
        if not abs(loss / self.proof["loss"] - 1) < 0.1:
            raise RuntimeError(
                f"its first loss is {loss}, {self.proof['loss']:.3f} at the shared weights"
            )
