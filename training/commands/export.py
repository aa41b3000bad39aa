"""`penwright-train export`: a checkpoint in other programs' files.

    penwright-train export models/base --format hf --out base-hf
    penwright-train export models/spam --format hf --out spam-hf
    penwright-train export models/spam --format peft --base-name base-hf --out spam-peft
    penwright-train export models/instruct --format gguf --dtype q8_0 --out instruct.gguf
    penwright-train export models/smollm2 --format hf --dtype bf16 --out smollm2-hf

hf    a directory for transformers, as a language model of the family whose choices the network has:
      GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM; a classifier as the
      family's …ForSequenceClassification, with the temperature of the head folded in, and the bias
      that it has with GPT-2's choices; an adapter is merged
peft  an adapter's matrices for the package peft, and a classifier's head, to be loaded on the
      exported base, in the family's names
gguf  one file for llama.cpp, of the architecture gpt2, llama, qwen2 or qwen3; an adapter is merged;
      language models only

A prompt template goes along as a chat template in Jinja. A network with choices that no family has
together is refused by their names.

What was written is read again and must give the golden outputs on the checkpoint's card before it
is published; the difference and the bound for the precision are printed. A classifier's threshold
has no place in these files: its probabilities are the same, but whoever takes the largest decides
at 0.5. The threshold is printed and kept in the files under "penwright".
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from model.checkpoint import (
    Adapter,
    Base,
    adapter_base_path,
    golden,
    is_adapter,
    load_adapter,
    load_base,
)
from model.checkpoint.atomic import foreign, is_unfinished, new_directory, new_file
from model.checkpoint.files import CARD, check_writable
from model.convert import Imported, read_hugging_face
from model.convert.families import family_of
from model.convert.gguf_read import read_gguf
from model.convert.gguf_write import write_gguf
from model.convert.hf_head import check_head
from model.convert.hf_write import write_hugging_face
from model.convert.peft_read import read_peft
from model.convert.peft_write import write_peft
from model.errors import CheckpointError, TextError, UsageError

FORMATS = ("hf", "peft", "gguf")
DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "q8_0": None,  # blocks of 8-bit numbers, in GGUF alone
}
_FILES = frozenset(
    {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
        *("adapter_config.json", "adapter_model.safetensors", "penwright.json"),
    }
)
"""All that an export to a directory writes."""
_PROBES = (
    "It's 12,345.67 °C – naïve café; see https://example.org/?q=1&r=22",
    "  two  spaces,\ttabs\r\n\n\nlines  ",
    "日本語 русский עברית ½ ٣٤ 👍🏽 e\u0301",
)
"""Texts that other tokenizers cut up differently if they are not the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="checkpoint to export")
    parser.add_argument("--format", choices=FORMATS, required=True, help="whose files to write")
    parser.add_argument("--out", type=Path, required=True, help="directory, or file for gguf")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="fp32",
        help="of the stored weights (default fp32, which is exact); q8_0 for gguf alone",
    )
    parser.add_argument("--base", type=Path, help="base of the adapter, if it has moved")
    parser.add_argument(
        "--base-name",
        metavar="NAME",
        help="for peft: directory or hub's name of the exported base, as peft is to look for it",
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export at --out")


def run(args: argparse.Namespace) -> None:
    dtype = DTYPES[args.dtype]
    if dtype is None and args.format != "gguf":
        raise UsageError(
            f"--dtype {args.dtype} exists in gguf alone; --format {args.format} allows "
            f"{', '.join(name for name, kind in DTYPES.items() if kind)}"
        )
    if args.base_name is not None and args.format != "peft":
        raise UsageError(f"--base-name is for --format peft, not {args.format}")
    _check_out(args)
    base, adapter = _load(args.checkpoint, args.base)
    _check_format(args, base, adapter)
    if args.format == "peft":
        assert adapter is not None
        assert dtype is not None
        _export_peft(args, base, adapter, dtype)
        whole = replace(base, head=adapter.head)
    else:
        whole = base if adapter is None else _merged(base, adapter)
        if args.format == "hf":
            assert dtype is not None
            with new_directory(args.out.resolve(), last="config.json") as directory:
                write_hugging_face(directory, whole, dtype)
                proof = _proof(args, whole, read_hugging_face(directory))
                proof += _tokenizers_agree(directory, whole)
        else:
            name = args.checkpoint.resolve().name
            with new_file(args.out.resolve()) as path:
                write_gguf(path, whole, args.dtype, name)
                proof = _proof(args, whole, read_gguf(path))
        head = "" if whole.head else ", tied head" if whole.config.tied else ", untied head"
        print(f"{args.out}: {whole.model.parameter_count():,} parameters{head}, {args.dtype}")
        print(proof)
    if whole.head is not None:
        _say_threshold(whole)


def _check_out(args: argparse.Namespace) -> None:
    """Refuse a target that is not an earlier export, or that nobody allowed to replace."""
    out, source = args.out.resolve(), args.checkpoint.resolve()
    if out == source or Path.cwd().is_relative_to(out):
        raise UsageError(f"--out {args.out} is the checkpoint or the working directory")
    check_writable(args.out)
    if not out.exists():
        return
    if not args.force:
        raise UsageError(f"--out {args.out} exists; --force replaces an earlier export")
    if out.is_dir() == (args.format == "gguf"):
        wanted = "file" if args.format == "gguf" else "directory"
        raise UsageError(f"--out {args.out} is no {wanted}, but --format {args.format} writes one")
    if out.is_dir():
        exported = any((out / name).is_file() for name in ("config.json", "adapter_config.json"))
        known = (exported and not (out / CARD).exists()) or is_unfinished(out)
    else:
        with out.open("rb") as file:
            known = file.read(4) in (b"GGUF", b"")
    if not known:
        raise UsageError(
            f"--out {args.out} holds something else than an export; it is not replaced"
        )
    entry = foreign(out, _FILES) if out.is_dir() else None
    if entry is not None:
        raise UsageError(
            f"--out {args.out} holds {entry.name}, which is no part of an export and would be "
            "deleted with it; move it elsewhere, or name another directory"
        )


def _load(path: Path, base_path: Path | None) -> tuple[Base, Adapter | None]:
    if not is_adapter(path):
        if base_path is not None:
            raise UsageError(f"--base is for adapters; {path} has weights of its own")
        return load_base(path), None
    base = load_base(base_path or adapter_base_path(path))
    return base, load_adapter(path, base)


def _check_format(args: argparse.Namespace, base: Base, adapter: Adapter | None) -> None:
    """Say which formats this kind of checkpoint has, if not the one that is asked for.

    Raises:
        UsageError: names the flag, what the checkpoint is, and what is possible.
    """
    family = family_of(base.config, f"--format {args.format}")
    head = base.head if adapter is None else adapter.head
    if args.format == "gguf" and head is not None:
        possible = "hf" if adapter is None else "hf and peft"
        raise UsageError(
            f"--format gguf: {args.checkpoint} is a classifier, and GGUF has no classification "
            f"head here; possible: {possible}"
        )
    if head is not None:
        check_head(head, family, f"--format {args.format}")
    if args.format != "peft":
        return
    others = "hf" if head is not None else "hf and gguf"
    if adapter is None:
        raise UsageError(
            f"--format peft: {args.checkpoint} is no adapter but has weights of its own; "
            f"possible: {others}"
        )
    if not adapter.lora.sites:
        raise UsageError(
            f"--format peft: {args.checkpoint} is a head without LoRA (rank 0), which peft does "
            f"not know; possible: {others}"
        )


def _merged(base: Base, adapter: Adapter) -> Base:
    """The adapter's network as a checkpoint with weights of its own; `base` is used up."""
    adapter.lora.merge_into(base.model)
    return replace(
        base,
        id=adapter.id,
        task=adapter.task,
        head=adapter.head,
        card=adapter.card,
        template=adapter.template,
    )


def _export_peft(
    args: argparse.Namespace, base: Base, adapter: Adapter, dtype: torch.dtype
) -> None:
    if args.base_name is not None and Path(args.base_name).is_dir():
        found = read_hugging_face(Path(args.base_name))
        with _naming(f"--base-name {args.base_name}: is not the base of {args.checkpoint}"):
            golden.verify(
                args.base_name,
                base.card.get("golden"),
                found.model,
                found.tokenizer,
                template=base.template,
            )
    with new_directory(args.out.resolve(), last="adapter_config.json") as directory:
        write_peft(directory, base, adapter, dtype, args.base_name)
        back = read_peft(directory, base)
        with _naming(f"--out {args.out}: not written"):
            worst = golden.verify(
                str(args.checkpoint),
                adapter.card.get("golden"),
                base.model,
                base.tokenizer,
                back.head,
                back.lora,
                bound=_bound(args.dtype),
                template=adapter.template,
            )
    count = sum(matrix.numel() for matrix in adapter.lora.parameters())
    print(f"{args.out}: {count:,} parameters in LoRA matrices, {args.dtype}")
    print(_sentence(worst, args.dtype))
    if args.base_name is None:
        print(
            "load it with PeftModel.from_pretrained(base, DIR), where base is the exported base; "
            "--base-name would let peft find that by itself"
        )


def _proof(args: argparse.Namespace, whole: Base, back: Imported) -> str:
    """Compare what was written, read again, with the checkpoint.

    Raises:
        CheckpointError: it gives other outputs or other tokens.
    """
    if back.tokenizer.sha256 != whole.tokenizer.sha256:
        raise CheckpointError(f"--out {args.out}: not written: its tokenizer reads differently")
    if whole.head is None and back.tokenizer.special.stop != tuple(sorted(whole.stop_tokens)):
        raise CheckpointError(
            f"--out {args.out}: not written: {list(back.tokenizer.special.stop)} would end a text "
            f"there, {sorted(whole.stop_tokens)} do here"
        )
    if back.template != whole.template:
        raise CheckpointError(f"--out {args.out}: not written: its chat template reads differently")
    with _naming(f"--out {args.out}: not written"):
        worst = golden.verify(
            str(args.checkpoint),
            whole.card.get("golden"),
            back.model,
            back.tokenizer,
            back.head,
            bound=_bound(args.dtype),
            template=whole.template,
        )
    return _sentence(worst, args.dtype)


def _tokenizers_agree(directory: Path, whole: Base) -> str:
    """Encode with Hugging Face's own library what the tokenizer here encodes.

    Raises:
        CheckpointError: a text gets other tokens there.
    """
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_file(str(directory / "tokenizer.json"))
    texts = (*_PROBES, *(entry["input"] for entry in whole.card["golden"]))
    compared = 0
    for text in texts:
        try:
            ours = whole.tokenizer.encode(text)
        except TextError:  # some vocabularies lack bytes, which other programs drop in silence
            continue
        compared += 1
        if theirs.encode(text, add_special_tokens=False).ids != ours:
            raise CheckpointError(
                f"not written: the package tokenizers cuts {text[:40]!r} into other tokens"
            )
    return f"; the package tokenizers gives the same tokens for {compared} texts"


def _bound(dtype: str) -> float:
    kind = DTYPES[dtype]
    return golden.INT8_BOUND if kind is None else golden.BOUNDS[kind]


def _sentence(worst: float, dtype: str) -> str:
    return (
        "read again, it gives the golden outputs of the card: largest difference "
        f"{worst:.2g}, allowed for {dtype} {_bound(dtype):g}"
    )


def _say_threshold(whole: Base) -> None:
    assert whole.head is not None
    labels = whole.head.labels
    said = f"labels {', '.join(labels.names)}; probabilities are calibrated as before"
    if labels.positive is not None:
        said += (
            f"; the threshold of {labels.positive!r}, {labels.threshold:.4g}, is kept as a note: "
            "the largest probability alone decides at 0.5"
        )
    print(said)


@contextmanager
def _naming(words: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{words}: {error}") from error
