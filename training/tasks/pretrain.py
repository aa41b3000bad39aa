"""`penwright-train pretrain`: a base model from raw text.

    penwright-train pretrain --data book.txt --tokenizer mine.tiktoken --epochs 10 --out mine

The loss is the mean cross-entropy of the next token over every position of every window.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import save_base
from model.checkpoint_files import check_target
from model.config import GPTConfig, preset
from model.errors import UsageError
from model.gpt import GPT
from model.tokenizer import Tokenizer
from training import state as saved_state
from training.card import run_fields
from training.data.text import SPLIT_RULE, TokenFiles, Windows, file_sha256, tokenize_files
from training.finetune import round_as_saved, run_directory
from training.loop import Batch, Run
from training.loss import token_loss
from training.perplexity import text_metrics
from training.report import print_metrics
from training.samples import continuations
from training.settings import LoopSettings
from training.tasks.tokenizer import load_tokenizer

_PROMPTS = ("Once upon a time", "The king looked at", "The city is located in")
"""What samples continue."""


class Pretraining:
    """Next-token prediction on windows of text. A `training.loop.Task`."""

    name = "pretrain"
    keep_best = False
    lengths = None

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        files: TokenFiles,
        settings: LoopSettings,
        stride: int,
    ) -> None:
        self.trained = model
        self.tokenizer = tokenizer
        self.files = files
        self.settings = settings
        self.device = settings.torch_device
        length = model.config.context_length
        self.train = Windows(files.train, length, stride)
        if not len(self.train):
            raise UsageError(
                f"--context is {length}; the training part has only {len(files.train)} tokens"
            )
        # A short validation part is one window of what there is.
        val_length = min(length, len(files.val) - 1)
        if val_length < 1:
            raise UsageError("the validation part has no second token; raise --val-fraction")
        self.val = Windows(files.val, val_length, val_length)
        self.examples = len(self.train)
        self.tokens_per_example = length

    def batch(self, examples: Sequence[int]) -> Batch:
        return self._batch(self.train, examples)

    def _batch(self, windows: Windows, examples: Sequence[int]) -> Batch:
        inputs, targets = windows.batch(examples)
        lengths = torch.full((len(examples),), windows.length)
        return Batch(
            inputs.to(self.device), targets.to(self.device), lengths, count=targets.numel()
        )

    def loss(self, batch: Batch) -> Tensor:
        total, _ = token_loss(self.trained, self.trained(batch.inputs), batch.targets)
        return total

    def evaluate(self) -> dict[str, float]:
        """Loss and perplexity per token on windows spread evenly over the validation part."""
        size = self.settings.batch_size
        wanted = min(len(self.val), (self.settings.eval_batches or len(self.val)) * size)
        chosen = [index * len(self.val) // wanted for index in range(wanted)]
        total, count = 0.0, 0
        for start in range(0, wanted, size):
            batch = self._batch(self.val, chosen[start : start + size])
            total += self.loss(batch).item()
            count += batch.count
        loss = total / count
        return {"val_loss": loss, "val_perplexity": math.exp(min(loss, 700.0))}

    def samples(self) -> list[str]:
        return continuations(self.trained, self.tokenizer, _PROMPTS)

    def measure(self) -> dict[str, Any]:
        """Loss per token, perplexity and bits per byte over the whole validation part."""
        return {"validation": text_metrics(self.trained, self.files.val, self.tokenizer)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="text files, .xz too")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to publish")
    parser.add_argument("--run", type=Path, help="directory of the run (default: OUT.run)")
    parser.add_argument("--preset", default="small", help="shape of the network (default small)")
    parser.add_argument("--context", type=int, help="context length, if not the preset's")
    parser.add_argument("--stride", type=int, help="tokens between windows (default: context)")
    parser.add_argument("--tokenizer", default="gpt2", help="a tokenizer file, or gpt2 (default)")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="validation part (0.1)")
    parser.add_argument(
        "--licence", action="append", default=[], help="source and licence of data, for the card"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the saved state")
    LoopSettings.add_arguments(parser, epochs=1.0, sample_every=500)


def run(args: argparse.Namespace) -> None:
    settings = LoopSettings.from_args(args)
    check_target(args.out)
    if not 0 < args.val_fraction < 1:
        raise UsageError(f"--val-fraction is {args.val_fraction}; it must be between 0 and 1")
    tokenizer = load_tokenizer(args.tokenizer)
    changes: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    for name in ("context", "stride"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} is {value}; it must be at least 1")
    if args.context:
        changes["context_length"] = args.context
    config = dataclasses.replace(preset(args.preset), **changes)
    stride = args.stride or config.context_length
    directory = run_directory(args)
    identity = {
        "architecture": config.to_dict(),
        "stride": stride,
        "tokenizer": tokenizer.sha256,
        "val_fraction": args.val_fraction,
    }
    if args.resume:
        _check_resume(directory, identity, args.data)
    files = tokenize_files(args.data, tokenizer, directory / "data", args.val_fraction)
    model = new_model(config, settings)
    task = Pretraining(model, tokenizer, files, settings, stride)
    progress = Run(task, settings, directory).train(
        resume=args.resume,
        describe={**identity, "data": list(files.sources)},
    )
    round_as_saved(model)
    metrics = task.measure()
    card = {
        "task": "generate",
        **run_fields(args, settings, progress),
        "parameters": model.parameter_count(),
        "data": {
            "files": list(files.sources),
            "split": {"rule": SPLIT_RULE, "val_fraction": args.val_fraction},
            "train_tokens": len(files.train),
            "val_tokens": len(files.val),
        },
        "metrics": metrics,
        "samples": continuations(model.to("cpu"), tokenizer, _PROMPTS),
    }
    base = save_base(args.out, model, tokenizer, card=card)
    print_metrics(metrics)
    print(f"{args.out}: base {base.id[:12]}, {model.parameter_count():,} parameters")


def _check_resume(directory: Path, identity: dict[str, Any], data: Sequence[Path]) -> None:
    """Before other tokens take the place of those in the directory of the run."""
    state = saved_state.load(directory)
    saved_state.check_same(state, identity)
    if [source["sha256"] for source in state["identity"]["data"]] != list(map(file_sha256, data)):
        raise UsageError("--resume: --data is not what the saved run was trained on")


def new_model(config: GPTConfig, settings: LoopSettings) -> GPT:
    """A network with fresh weights, drawn on the CPU: the same on every device."""
    model = GPT(config, settings.dropout)
    model.init_weights(torch.Generator().manual_seed(settings.seed))
    return model.to(settings.torch_device)
