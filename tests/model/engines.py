"""Networks with random weights for the tests of engines, what goes in and what came out."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from model.architecture import Architecture
from model.checkpoint import Adapter, Base
from model.classifier import ClassifierHead, Labels
from model.cpu.quantize import quantize
from model.engine.request import Event, Text
from model.lora import LoRA, LoRASettings
from model.tokenizer import END_OF_TEXT, PATTERN, Tokenizer
from model.transformer import Transformer


class Span(NamedTuple):
    """The new tokens of one sequence, as `CacheStep` asks for them."""

    blocks: Sequence[int]
    start: int
    length: int


def random_base(context: int) -> Base:
    """Over bytes, with logits that differ clearly; the end token is 256."""
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)}, PATTERN, {END_OF_TEXT: 256})
    config = Architecture(257, context, n_layer=2, n_head=2, n_embd=32)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4 if parameter.ndim == 2 else 1
    return Base(Path(), "", "generate", config, model.eval(), tokenizer, (256,), None, {})


def exact_base(
    config: Architecture, dtype: torch.dtype | None, tokenizer: Tokenizer | None = None
) -> Base:
    """Its rows do not depend on their batch.

    Args:
        dtype: in which products are made in tiles; None is 8-bit weights.
        tokenizer: over bytes unless another is given.
    """
    if tokenizer is None:
        tokenizer = Tokenizer({bytes([i]): i for i in range(256)}, PATTERN, {END_OF_TEXT: 256})
    model = Transformer(config).eval()
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3 if parameter.ndim == 2 else 1
    if dtype is None:
        quantize(model)
    else:
        model.to(dtype)
        model.multiply_in_tiles()
    return Base(Path(), "", "generate", config, model, tokenizer, (tokenizer.end_token,), None, {})


def exact_adapters(base: Base) -> dict[str, Adapter]:
    """Of an `exact_base`: "spam", and "other" with DoRA and a head that reads all tokens; both
    classify."""
    result = {}
    for seed, name in enumerate(("spam", "other")):
        generator = torch.Generator().manual_seed(seed)
        lora = LoRA(base.config, LoRASettings(rank=4 + seed, dora=name == "other"))
        lora.init_weights(generator)
        with torch.no_grad():
            for b in lora.b.values():
                b.normal_(0, 0.1, generator=generator)
            for gain in lora.gain.values():
                gain.normal_(0, 0.1, generator=generator)
        pooling = "last-mean" if name == "other" else "last"
        head = ClassifierHead(base.config.n_embd, Labels(("ham", "spam"), "spam"), pooling=pooling)
        head.init_weights(generator)
        lora.tile = base.model.tile
        lora, head = lora.eval().to(base.model.dtype), head.eval().to(base.model.dtype)
        result[name] = Adapter(Path(), "", "classify", lora, head, {})
    return result


def random_adapter(base: Base, seed: int, *, classifies: bool) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    lora = LoRA(base.config, LoRASettings(rank=2))
    lora.init_weights(generator)
    with torch.no_grad():
        for b in lora.b.values():
            b.normal_(0, 0.1, generator=generator)
    if not classifies:
        return Adapter(Path(), "", "instruct", lora.eval(), None, {})
    head = ClassifierHead(base.config.n_embd, Labels(("ham", "spam"), "spam"))
    head.init_weights(generator)
    return Adapter(Path(), "", "classify", lora.eval(), head.eval(), {})


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def prompt(number: int) -> tuple[int, ...]:
    """3 to 19 tokens, others for each number."""
    return tuple((number * 37 + i * 11) % 256 for i in range(3 + number % 17))
