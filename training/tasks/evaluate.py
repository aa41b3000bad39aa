"""`penwright-train evaluate`: measure a published checkpoint.

    penwright-train evaluate checkpoints/default/spam --data SMSSpamCollection.tsv

What is measured follows from the checkpoint. A classifier and an instruction follower: the test
part of the data, which is derived from the texts again; with the data of the training, that gives
the numbers on the card. A base: loss, perplexity and bits per byte on all of the given text.
Without `--data`, the numbers on the card are printed.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.atomic import write_file
from model.checkpoint import Base, adapter_base_path, is_adapter, load_adapter, load_base
from model.errors import DataError, UsageError
from training import classification
from training.data.instructions import load_instructions
from training.data.labelled import load_labelled
from training.data.text import documents, read_text
from training.finetune import Network
from training.perplexity import text_metrics
from training.report import print_metrics
from training.settings import LoopSettings
from training.tasks import instruct


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="checkpoint to measure")
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="data files")
    parser.add_argument("--base", type=Path, help="base of the adapter, if it has moved")
    parser.add_argument("--json", type=Path, help="file to write the metrics to")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")


def run(args: argparse.Namespace) -> None:
    device = LoopSettings(steps=1, device=args.device).torch_device
    base, network, task, card = _load(args.checkpoint, args.base)
    network = network.to(device)
    if not args.data:
        metrics = card.get("metrics")
        if not metrics:
            raise UsageError(f"--data is missing, and the card of {args.checkpoint} has no metrics")
        print("from the card; give --data to measure again")
    elif network.head is not None:
        metrics = _classifier_metrics(base, network, args.data)
    elif task == "instruct":
        metrics = _instruct_metrics(base, network, args.data)
    else:
        metrics = _text_metrics(base, network, args.data)
    print_metrics(metrics)
    if args.json:
        content = json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"
        write_file(args.json, content.encode())


def _load(path: Path, base_path: Path | None) -> tuple[Base, Network, str, dict[str, Any]]:
    """The checkpoint's base, its network, its task and its card."""
    if not is_adapter(path):
        if base_path is not None:
            raise UsageError(f"--base is for adapters; {path} has weights of its own")
        base = load_base(path)
        return base, Network(base.model, None, base.head), base.task, base.card
    base = load_base(base_path or adapter_base_path(path))
    adapter = load_adapter(path, base)
    network = Network(base.model, adapter.lora, adapter.head)
    return base, network, adapter.task, adapter.card


def _classifier_metrics(base: Base, network: Network, paths: Sequence[Path]) -> dict[str, Any]:
    names = classification.head_of(network).labels.names
    data = load_labelled(paths)
    if set(data.labels) - set(names):
        raise DataError(
            f"{', '.join(map(str, paths))}: has the labels {', '.join(data.labels)}; "
            f"the checkpoint knows {', '.join(names)}"
        )
    tokenizer = base.tokenizer
    rows = classification.encode(data.test, names, tokenizer, base.config.context_length)
    return classification.measure(network, rows, tokenizer.end_token)


def _instruct_metrics(base: Base, network: Network, paths: Sequence[Path]) -> dict[str, Any]:
    test = instruct.encode_parts(load_instructions(paths), base, paths)["test"]
    # An adapter is compared with its base; a checkpoint of its own does not carry one.
    untuned = None if network.lora is None else Network(network.model)
    metrics, _ = instruct.measure(base, network, test, untuned)
    return metrics


def _text_metrics(base: Base, network: Network, paths: Sequence[Path]) -> dict[str, Any]:
    end = base.tokenizer.end_token
    names = Counter(path.name for path in paths)
    result = {}
    for path in paths:
        # Every document follows an end token, as in training, so its first token counts as well.
        tokens = [end]
        for document in base.tokenizer.encode_batch(list(documents(read_text(path)))):
            tokens += [*document, end]
        stream = np.array(tokens, np.uint32)
        name = path.name if names[path.name] == 1 else str(path)
        result[name] = text_metrics(network.model, stream, base.tokenizer)
    return result
