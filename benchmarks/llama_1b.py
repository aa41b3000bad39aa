"""The shape of Llama 3.2 1B with random weights, in Q4_0, as llama.cpp's own tool writes it.

The blocks are those of Llama 3.2 1B; the vocabulary is SmolLM2's, whose tokenizer is at hand, so
that the embedding is 100 million numbers in place of 263.
"""

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import smollm2
from benchmarks.gpt2 import Files, made, random_weights
from benchmarks.systems.gguf_files import requantize
from model.architecture import preset
from model.checkpoint import load_base
from model.convert.gguf_write import write_gguf
from model.transformer import Transformer

CONTEXT = 8192


def prepare(work: Path) -> Files:
    """Write what is not there yet; on the way it takes 7 GB of memory and 2 GB on the disk."""
    files = Files(work)
    made(files.gguf("q4_0"), lambda out: _write(out, files))
    made(work / "penwright.gguf", lambda out: out.symlink_to(files.gguf("q4_0").resolve()))
    return files


def _write(out: Path, files: Files) -> None:
    base = load_base(smollm2.file())
    config = preset("llama-3.2-1b")
    config = replace(config, vocab_size=base.config.vocab_size, context_length=CONTEXT)
    with torch.device("meta"):
        network = Transformer(config)
    network.load_state_dict(random_weights(config), assign=True)
    whole = files.gguf("f16")
    write_gguf(whole, replace(base, config=config, model=network.eval()), "fp16", "random Llama 1B")
    requantize(whole, out, "q4_0")
    whole.unlink()
