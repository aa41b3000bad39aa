"""`penwright-train tokenizer`: byte-pair merges learnt from one's own text.

    penwright-train tokenizer --data book.txt --vocab-size 8192 --out mine.tiktoken

The merges are learnt by Hugging Face's `tokenizers` and written as a tiktoken encoding; beside the
file, `mine.tiktoken.json` holds the splitting pattern and the special tokens.
"""

import argparse
from pathlib import Path

from model.checkpoint.files import check_writable
from training.commands import flags
from training.data.text_stream import stream_documents
from training.data.vocabulary import save_tokenizer, train_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, help="text files, packed too"
    )
    flags.add_encoding(parser)
    parser.add_argument("--vocab-size", type=int, default=8192, help="tokens (default 8192)")
    parser.add_argument("--out", type=Path, required=True, help="the tokenizer file to write")


def run(args: argparse.Namespace) -> None:
    check_writable(args.out)
    texts = (document for path in args.data for document in stream_documents(path, args.encoding))
    tokenizer = train_tokenizer(texts, args.vocab_size)
    save_tokenizer(tokenizer, args.out)
    print(f"{args.out}: {tokenizer.vocab_size} tokens")
