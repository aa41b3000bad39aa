"""`penwright-train import`: weights of other programs, to serve or to fine-tune.

    penwright-train import gpt2 --out models/gpt2              OpenAI's smallest, from the hub
    penwright-train import ./my-gpt2 --out models/mine         a Hugging Face directory
    penwright-train import mine.gguf --out models/mine         llama.cpp's format
    penwright-train import ~/.cache/penwright/mine.gguf --leave-weights "make mine" --out DIR
    penwright-train import ./my-lora --base models/mine --out models/mine-lora    a PEFT adapter

A Hugging Face directory holds config.json, model.safetensors (or its shards) and the tokenizer; it
is a language model of the family of GPT-2, Llama, Qwen2 or Qwen3, or a classifier of one
(…ForSequenceClassification). A GGUF file, of the same families, is kept as it is; with
`--leave-weights` it is kept where it is, in the folder that PENWRIGHT_WEIGHTS names, and the
checkpoint names it by its hash and says by which command others come by it. A directory that is
called like one of OpenAI's models is named with a slash: `./gpt2`. What `penwright-train export`
wrote is read back as the task that it was; for other files, `--task instruct` names a model that
follows the instruction template. A PEFT adapter is LoRA for a base of any of these families; it
reads conversations in its base's template.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import TaskName, load_base, save_adapter, save_base
from model.checkpoint.files import (
    MOST_COMMAND,
    WEIGHTS_FROM,
    check_target,
    is_command,
    may_be_left_out,
)
from model.checkpoint.weights_folder import VARIABLE, weights_folder
from model.convert import HUB_NAMES, Imported, download, read_hugging_face
from model.convert.gguf_read import is_gguf, read_gguf
from model.convert.peft_read import is_peft, read_peft
from model.errors import UsageError
from model.json_files import shown
from model.weight_files import sha256
from training.tuning.card import portable_command

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_OPENAI_LICENCE = "OpenAI's modified MIT licence (github.com/openai/gpt-2/blob/master/LICENSE)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = ", ".join(HUB_NAMES)
    parser.add_argument(
        "source", help=f"{sizes}; or a Hugging Face directory, a PEFT directory or a .gguf file"
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to publish")
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="of the stored weights (default fp32); a .gguf file keeps its own",
    )
    parser.add_argument(
        "--leave-weights",
        metavar="COMMAND",
        help=f"do not copy a .gguf file of the folder {VARIABLE} but name it by its hash; COMMAND "
        "brings it to whoever lacks it",
    )
    parser.add_argument(
        "--base", type=Path, help="for a PEFT adapter: the checkpoint that it is for"
    )
    parser.add_argument(
        "--task",
        choices=("generate", "instruct"),
        help="of a language model (default: as exported, else generate)",
    )
    parser.add_argument(
        "--licence", action="append", default=[], help="source and licence of weights, for the card"
    )


def run(args: argparse.Namespace) -> None:
    check_target(args.out)
    if args.source in HUB_NAMES:
        path = download(args.source)
        name = f"{HUB_NAMES[args.source]}@{path.name}"
        card: dict[str, Any] = {"source": {"name": name}, "licences": [_OPENAI_LICENCE]}
    else:
        path = Path(args.source)
        if not path.is_dir() and not is_gguf(path):
            raise UsageError(
                f"{args.source} is neither a directory nor a .gguf file nor one of "
                f"{', '.join(HUB_NAMES)}"
            )
        if args.out.resolve() == path.resolve():
            raise UsageError(f"--out {args.out} is what is to be imported; it would be replaced")
        card = {
            "source": {"name": path.resolve().name},
            "licences": args.licence or ["whatever the source states; nothing was read of it"],
        }
    if path.is_file() and args.dtype is not None:
        raise UsageError(f"--dtype is {args.dtype}; {args.source} is kept as it is, leave it out")
    words = ["import", args.source, "--out", str(args.out)]
    for flag in ("dtype", "leave_weights", "base", "task"):
        if getattr(args, flag) is not None:
            words += [f"--{flag.replace('_', '-')}", str(getattr(args, flag))]
    for licence in args.licence:
        words += ["--licence", licence]
    card["command"] = portable_command(words)
    if args.leave_weights is not None:
        _check_left(args, path)
        card[WEIGHTS_FROM] = {"command": args.leave_weights, "bytes": path.stat().st_size}
    if is_peft(path):
        _import_adapter(args, path, card)
        return
    if args.base is not None:
        raise UsageError(f"--base is for PEFT adapters; {args.source} has weights of its own")
    imported = read_gguf(path) if path.is_file() else read_hugging_face(path)
    _save(args, imported, card)


def _check_left(args: argparse.Namespace, path: Path) -> None:
    """
    Raises:
        UsageError: the file cannot stay where it is, for it would not be found from a checkpoint.
    """
    if not path.is_file():
        raise UsageError(f"--leave-weights is for a .gguf file; {args.source} is a directory")
    if not may_be_left_out(path.name):
        raise UsageError(
            f"--leave-weights: {args.source} must have a name of its own that ends in .gguf"
        )
    if not is_command(args.leave_weights):
        raise UsageError(
            f"--leave-weights is {shown(args.leave_weights)}; it must be a line of at most "
            f"{MOST_COMMAND} characters"
        )
    found = weights_folder() / path.name
    if not found.is_file() or not (found.samefile(path) or sha256(found) == sha256(path)):
        raise UsageError(
            f"--leave-weights: {args.source} is not in {weights_folder()} ({VARIABLE}), where it "
            "would be looked for"
        )


def _save(args: argparse.Namespace, imported: Imported, card: dict[str, Any]) -> None:
    card["source"]["files"] = imported.files
    if imported.head is not None and args.task is not None:
        raise UsageError(
            f"--task {args.task} is for language models; {args.source} is a classifier"
        )
    task: TaskName = "classify" if imported.head else args.task or imported.task or "generate"
    path = Path(args.source)
    dtype = args.dtype or "fp32"
    base = save_base(
        args.out,
        imported.model,
        imported.tokenizer,
        card=card,
        dtype=_DTYPES[dtype],
        head=imported.head,
        task=task,
        template=imported.template,
        gguf=path if path.is_file() else None,
        leave=args.leave_weights is not None,
    )
    head = "tied" if base.config.tied else "untied"
    if base.head is not None:
        head = f"{', '.join(base.head.labels.names)} as"
    kind = "as it was" if path.is_file() else dtype
    if args.leave_weights is not None:
        kind = "left where it is"
    print(f"{args.out}: {base.model.parameter_count():,} parameters, {head} head, {kind}")
    if imported.template is not None:
        print(f"{args.out}: conversations are written in the template {imported.template.name}")
    elif imported.template_problem is not None:
        print(f"{args.out}: no chat: its template cannot be used: {imported.template_problem}")


def _import_adapter(args: argparse.Namespace, path: Path, card: dict[str, Any]) -> None:
    if args.base is None:
        raise UsageError(f"--base is missing: {args.source} is a PEFT adapter; name its checkpoint")
    base = load_base(args.base)
    found = read_peft(path, base)
    if found.head is not None and args.task is not None:
        raise UsageError(
            f"--task {args.task} is for language models; {args.source} is a classifier"
        )
    card["source"]["files"] = {
        file.name: sha256(file) for file in sorted(path.glob("adapter_*")) if file.is_file()
    }
    adapter = save_adapter(
        args.out,
        base,
        task="classify" if found.head else args.task or found.task or "generate",
        lora=found.lora,
        head=found.head,
        card=card,
        dtype=_DTYPES[args.dtype or "fp32"],
        template=found.template,
    )
    rank = adapter.lora.settings.rank
    print(f"{args.out}: an adapter of rank {rank} for {adapter.task}, {args.dtype or 'fp32'}")
