"""Tokens per second of a step of LoRA on SmolLM2-135M: our loop and others', in turns, in one run.

    python -m benchmarks.lora --litgpt DIR [--gguf FILE] [--rounds 5] [--json FILE]
    python -m benchmarks.lora --litgpt DIR --tune        only choose the peers' best options

Adapters of rank 16 on all linear layers of every block, 8 × 256 tokens of which each is learnt,
AdamW, clipping at 1.0. Each loop is its author's own, run whole: `penwright-train instruct`'s, the
`Trainer` of `transformers` with the package `peft`, and litgpt's `finetune/lora.py`. Each peer has
the best of the options that `candidates` lists, chosen once and kept; as it comes with --untuned.

Before anything is timed, each gives on the same tokens, with fresh adapters, its loss, the norm of
its gradients, and how many parameters learn: a peer whose numbers differ is not compared.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import record, smollm2
from benchmarks.gpt2 import made
from benchmarks.systems import OURS
from benchmarks.systems.training.base import Tuned
from benchmarks.train import Bench, chosen_options, measure
from benchmarks.training_setup import Options, differs
from model.checkpoint import load_base
from model.convert.hf_write import write_hugging_face
from training.loop.settings import LoopSettings

SIZE = Tuned("SmolLM2-135M, LoRA", context=256, batch=8)
QUICK = Tuned("SmolLM2-135M, LoRA (quick)", context=32, batch=2)
PEERS = {"peft": "peft", "litgpt": "litgpt"}
TARGETS = ("q", "k", "v", "out", "gate", "up", "down")
"""As the peers have it: matrices of their own for q, k and v."""
SHARED = f"{OURS} as it comes"
"""Our own default has one A for q, k and v together: fewer parameters, so that it is shown beside,
and not compared."""
GRADIENT_WITHIN = 0.15
"""Each draws its A from its own generator, which the gradients of B depend on."""
WINDOWS = 512
"""Of the text, which begins anew where it is shorter."""
_TEXTS = Path(__file__).resolve().parent.parent / "docs"


class LoRABench(Bench):
    """`benchmarks.train.Bench` for adapters."""

    kind: ClassVar[str] = "lora"
    peers: ClassVar[Mapping[str, str]] = PEERS
    both: ClassVar[bool] = False
    """A step in fp32 took up to 12 GB, and others keep theirs: together more than many machines
    have."""

    def candidates(self, system: str) -> list[Options]:
        bf16 = LoopSettings(steps=1, device=self.device).autocast
        return candidates(system, bf16)

    @property
    def kept(self) -> Path:
        file = super().kept
        return file.with_stem(f"{file.stem}-{self.shape.batch}x{self.shape.context}")

    def as_it_comes(self, peer: str) -> Options:
        """fp32: `Trainer`'s default, and litgpt's for a CPU."""
        return {}

    def of_ours(self) -> dict[str, Options]:
        return {OURS: {"targets": TARGETS, **self.ours}, SHARED: self.ours}

    def differs(self, name: str, ours: Mapping[str, float], proof: Mapping[str, float]) -> str:
        if name == SHARED:
            proof = {**proof, "parameters": ours["parameters"]}
        return differs(ours, proof, GRADIENT_WITHIN)


def candidates(system: str, bf16: bool) -> list[Options]:
    """What a tuned peer may choose from.

    Args:
        bf16: whether the device multiplies it; the options are fp32 elsewhere.
    """
    kept: Options = {"keep_memory": True}
    if system == "litgpt":
        precisions = ("32-true", "bf16-mixed", "bf16-true") if bf16 else ("32-true",)
        return [{**kept, "precision": name, "fused": True} for name in precisions]
    found: list[Options] = [kept]
    if bf16:
        autocast = {**kept, "precision": "bf16"}
        stored = {**autocast, "weights": "bf16"}
        whole = {**stored, "adapters": "bf16"}
        pure = {**whole, "precision": "fp32"}  # without autocast
        found = [autocast, stored, whole, pure, {**stored, "precision": "fp32"}, *found]
    eager = [{**option, "attention": "eager"} for option in found[:3]]
    return [*found, *eager, {**found[0], "compile": True}]


def prepare(work: Path, base: Path) -> Path:
    """Write the tokens, and the base as the peers take it, if they are not there yet.

    The text is that of our own documentation: what a trained network makes of it depends on all of
    its weights.

    Args:
        base: as `--base` takes it.
    """

    def write(out: Path) -> None:
        loaded = load_base(base)
        texts = [path.read_text("utf-8") for path in sorted(_TEXTS.glob("*.md"))]
        tokens = np.array(loaded.tokenizer.encode("\n\n".join(texts)))
        (out / "hugging-face").mkdir(parents=True)
        np.resize(tokens, WINDOWS * SIZE.context + 1).astype(np.uint16).tofile(out / "train.bin")
        write_hugging_face(out / "hugging-face", loaded, torch.float32)

    return made(work / f"lora-{base.stem}", write)


def parser() -> argparse.ArgumentParser:
    made = record.parser(__doc__.splitlines()[0])
    made.add_argument("--gguf", type=Path, help=f"({smollm2.NAME} in PENWRIGHT_WEIGHTS)")
    made.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    made.add_argument("--litgpt", type=Path, help="a directory that holds litgpt and lightning")
    made.add_argument("--tune", action="store_true", help="choose the peers' options, and end")
    made.add_argument("--untuned", action="store_true", help="the peers as they come, and no more")
    made.add_argument("--steps", type=int, default=1, help="of a turn")
    made.add_argument(
        "--ours", nargs="*", default=[], metavar="NAME=JSON", help="loop settings of ours"
    )
    return made


def main() -> None:
    arguments = parser().parse_args()
    base = (arguments.gguf or smollm2.file()).resolve()  # the workers run in another directory
    sources = {OURS: str(base)}
    if arguments.litgpt:
        sources["litgpt"] = str(arguments.litgpt.resolve())
    bench = LoRABench(
        shape=QUICK if arguments.quick else SIZE,
        work=prepare(arguments.work, base),
        threads=arguments.threads,
        device="cpu",
        sources=sources,
        ours={name: json.loads(value) for name, value in (o.split("=", 1) for o in arguments.ours)},
        steps=arguments.steps,
    )
    if arguments.tune:
        print(json.dumps(chosen_options(bench, arguments.peers, True), indent=1))
        return
    rounds = 1 if arguments.quick else arguments.rounds
    found: dict[str, Any] = measure(
        bench, arguments.peers, rounds, arguments.untuned or arguments.quick
    )
    works = [outcome.to_dict(OURS) for outcome in found.pop("outcomes")]
    values = record.record("benchmarks.lora", arguments, rounds=rounds, works=works, about=found)
    record.write(values, arguments.json)


if __name__ == "__main__":
    main()
