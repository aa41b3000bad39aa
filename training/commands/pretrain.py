"""`penwright-train pretrain`: a base model from raw text.

    penwright-train pretrain --data book.txt --tokenizer mine.tiktoken --epochs 10 --out mine

The loss is the mean cross-entropy of the next token over every position of every window.
"""

import argparse
from pathlib import Path

from training.commands import flags
from training.tasks.pretrain import DEFAULTS, Corpus, pretrain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, help="text files, packed too"
    )
    flags.add_encoding(parser)
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        default=[],
        help="share of each data file in what is seen, in their order (default: their sizes)",
    )
    flags.add_job(parser)
    parser.add_argument("--preset", help="shape of the network (default small)")
    parser.add_argument(
        "--context",
        type=int,
        help="context length, if not the preset's; with --base, of the windows alone",
    )
    parser.add_argument(
        "--base", type=Path, help="go on from these weights; they bring their shape and tokenizer"
    )
    parser.add_argument("--stride", type=int, help="tokens between windows (default: context)")
    parser.add_argument("--tokenizer", help="a tokenizer file, or gpt2 (default)")
    parser.add_argument("--val-fraction", type=float, help="validation part (0.1)")
    parser.add_argument(
        "--val",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="text files that validate, in place of a part of --data",
    )
    parser.add_argument(
        "--token-cache",
        type=Path,
        metavar="DIR",
        help="keep the tokens there, for all runs on the same files (default: in the run)",
    )
    parser.add_argument(
        "--eval-text", nargs="+", type=Path, default=[], help="texts to measure the result on"
    )
    parser.add_argument("--eval-blimp", type=Path, help="BLiMP pairs to measure the result on")
    flags.add_loop(parser, DEFAULTS)


def run(args: argparse.Namespace) -> None:
    pretrain(
        Corpus(
            tuple(args.data),
            tuple(args.weights),
            args.context,
            args.stride,
            args.val_fraction,
            args.encoding,
            args.token_cache,
            tuple(args.val),
        ),
        flags.job(args),
        base=args.base,
        shape=args.preset,
        tokenizer=args.tokenizer,
        settings=flags.loop(args),
        eval_texts=args.eval_text,
        eval_blimp=args.eval_blimp,
    )
