"""`penwright-train import`: GPT-2 weights, as a base to serve or to fine-tune.

    penwright-train import gpt2 --out models/gpt2              OpenAI's smallest, from the hub
    penwright-train import ./my-gpt2 --out models/mine         a Hugging Face directory

The directory holds config.json, model.safetensors (or its shards) and the tokenizer. A directory
that is called like one of OpenAI's models is named with a slash: `./gpt2`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import save_base
from model.convert import HUB_NAMES, download, read_hugging_face
from model.errors import UsageError
from training.card import portable_command

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_OPENAI_LICENCE = "OpenAI's modified MIT licence (github.com/openai/gpt-2/blob/master/LICENSE)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = ", ".join(HUB_NAMES)
    parser.add_argument("source", help=f"{sizes}; or a Hugging Face directory")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to publish")
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="fp32", help="of the stored weights (default fp32)"
    )


def run(args: argparse.Namespace) -> None:
    card: dict[str, Any]
    if args.source in HUB_NAMES:
        directory = download(args.source)
        name = f"{HUB_NAMES[args.source]}@{directory.name}"
        card = {"source": {"name": name}, "licence": _OPENAI_LICENCE}
    else:
        directory = Path(args.source)
        if not directory.is_dir():
            raise UsageError(
                f"{args.source} is neither a directory nor one of {', '.join(HUB_NAMES)}"
            )
        if args.out.resolve() == directory.resolve():
            raise UsageError(f"--out {args.out} is the directory to import; it would be replaced")
        card = {
            "source": {"name": directory.resolve().name},
            "licence": "whatever the source states; nothing was read of it",
        }
    imported = read_hugging_face(directory)
    card["source"]["files"] = imported.files
    words = ("import", args.source, "--out", str(args.out), "--dtype", args.dtype)
    card["command"] = portable_command(words)
    base = save_base(
        args.out, imported.model, imported.tokenizer, card=card, dtype=_DTYPES[args.dtype]
    )
    head = "tied" if base.config.tied else "untied"
    print(f"{args.out}: {base.model.parameter_count():,} parameters, {head} head, {args.dtype}")
