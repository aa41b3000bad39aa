"""Small bases of each family, with a tokenizer and a prompt template as such models have them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Peer

from model.checkpoint import Base, load_base, save_base
from model.convert import read_hugging_face
from model.prompts import Alpaca, ChatML, Llama3, Qwen3, Template
from model.prompts.llama3 import DATES
from model.tokenizer import Tokenizer
from model.tokenizer.hugging_face import read_tokenizer
from tests.parity import families
from tests.parity.families import CASES, new_peer, write_peer
from tests.parity.test_tokenizers import SPLITS, trained
from training.cli import main

VOCABULARY = 720
"""Of the networks; the tokenizers have fewer, as is usual."""
TEMPLATES: dict[str, Template] = {
    "gpt-2": Alpaca(),
    "smollm2": ChatML("You're a helpful assistant."),
    "llama-3": Llama3(DATES),
    "qwen2": ChatML("You are Qwen."),
    "qwen3": Qwen3(),
}
_LLAMA3 = {
    "<|endoftext|>": "<|end_of_text|>",
    "<|im_start|>": "<|start_header_id|>",
    "<|im_end|>": "<|eot_id|>",
}


def kind_of(case: str) -> str:
    """Which tokenizer and template a network of `CASES` gets."""
    family = CASES[case].family
    scaled = CASES[case].fields.get("rope_parameters", {}).get("rope_type") == "llama3"
    if family == "llama":
        return "llama-3" if scaled else "smollm2"
    return "gpt-2" if family == "gpt2" else family


def tokenizer_of(kind: str, directory: Path) -> Tokenizer:
    """A small vocabulary that is cut as those of the models are, with their special tokens."""
    peer = trained(SPLITS["qwen2" if kind == "qwen3" else kind][0], nfc=kind.startswith("qwen"))
    settings = {"eos_token": "<|im_end|>"}
    if kind == "qwen3":
        words = ("<think>", "</think>", "<tool_call>")
        peer.add_tokens([AddedToken(word, normalized=False) for word in words])
    if kind == "llama-3":
        peer = _llama3(peer)
        settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    if kind == "gpt-2":
        settings = {"eos_token": "<|endoftext|>"}
    directory.mkdir()
    (directory / "tokenizer.json").write_text(peer.to_str(), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return read_tokenizer(directory)


def _llama3(peer: Peer) -> Peer:
    """With its names, `ignore_merges`, and the beginning token before every text."""
    text = peer.to_str()
    for old, new in _LLAMA3.items():
        text = text.replace(old, new)
    content = json.loads(text)
    content["model"]["ignore_merges"] = True
    peer = Peer.from_str(json.dumps(content))
    peer.add_special_tokens(["<|begin_of_text|>", "<|end_header_id|>", "<|eom_id|>"])
    content = json.loads(peer.to_str())
    begin = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            "<|begin_of_text|>": {
                "id": "<|begin_of_text|>",
                "ids": [peer.token_to_id("<|begin_of_text|>")],
                "tokens": ["<|begin_of_text|>"],
            }
        },
    }
    return Peer.from_str(json.dumps(content))


def new_base(root: Path, case: str, **fields: Any) -> tuple[families.Peer, Base]:
    """A base in fp32 at `root / "base"`, and the network of `transformers` with its weights.

    Args:
        fields: of the configuration, as for `new_peer`.
    """
    peer = new_peer(CASES[case], vocab_size=VOCABULARY, **fields)
    write_peer(peer, root / "peer", tokens=VOCABULARY)
    kind = kind_of(case)
    save_base(
        root / "base",
        read_hugging_face(root / "peer").model,
        tokenizer_of(kind, root / "tokenizer"),
        card={},
        dtype=torch.float32,
        task="instruct",
        template=TEMPLATES[kind],
    )
    return peer, load_base(root / "base")


def export(base: Path, out: Path, kind: str, *flags: str) -> Path:
    """What `penwright-train export` writes."""
    assert main(["export", str(base), "--format", kind, "--out", str(out), *flags]) == 0
    return out
