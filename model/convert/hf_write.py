"""A Hugging Face directory, for `transformers` and all that reads its files.

A language model becomes its family's `…ForCausalLM` or `GPT2LMHeadModel`, a classifier its
`…ForSequenceClassification`. The decision threshold of a classifier has no place there: `argmax`
decides at 0.5. It is kept in `config.json` under "penwright", where our own import finds it.

The token that ends a document is the tokenizer's `eos_token`; all that end a text are in
`config.json` and `generation_config.json`, a list where there are several.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import Base
from model.convert.bpe_files import write_tokenizer
from model.convert.families import FAMILIES, HF_PREFIX, family_of
from model.convert.hf_config import config_values
from model.convert.hf_head import calibrated_weight, check_head, fold
from model.convert.hf_read import CONFIG, CONV1D, MODEL, OWN
from model.convert.tensors import taken_apart, widths_of
from model.json_files import write_json
from model.weight_files import write_weights


def write_hugging_face(directory: Path, base: Base, dtype: torch.dtype) -> None:
    """Fill `directory` with the model, its configuration and its tokenizer.

    Args:
        base: loaded in fp32 on the CPU, without an adapter.
        dtype: of the stored weights.

    Raises:
        UsageError: its choices, its tokenizer or its head have no form there; says why.
    """
    family = family_of(base.config, "--format hf")
    if base.head is not None:
        check_head(base.head, family, "--format hf")
    weights = hugging_face_weights(base.model.state_dict(), family, widths_of(base.model))
    if base.head is not None:
        weights.pop("lm_head.weight", None)
        if base.head.biased:
            norm = f"{HF_PREFIX}ln_f.bias"
            weights["score.weight"], weights[norm] = fold(base.head, weights[norm])
        else:
            weights["score.weight"] = calibrated_weight(base.head)
    write_weights(directory / MODEL, weights, dtype, {"format": "pt"})
    write_json(directory / CONFIG, _config(base, family, dtype))
    settings: dict[str, Any] = {"model_max_length": base.config.context_length}
    if base.head is not None:
        settings["padding_side"] = "right"  # positions are counted from the left
    else:
        write_json(directory / "generation_config.json", _token_ids(base))
    if base.template is not None:
        settings |= {"chat_template": base.template.jinja(), **base.template.named_tokens()}
    write_tokenizer(directory, base.tokenizer, settings)


def hugging_face_weights(
    weights: Mapping[str, Tensor],
    family: str = "gpt2",
    parts: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Tensor]:
    """A network's tensors under their names; GPT-2's projections are stored (in, out).

    Args:
        parts: output channels of the projections that are several layers there, as
            `model.convert.tensors.taken_apart` has them; GPT-2 has none.
    """
    prefix = HF_PREFIX if family == "gpt2" else ""
    theirs = {}
    for name, tensor in taken_apart(weights, FAMILIES[family].hugging_face, parts or {}):
        turned = family == "gpt2" and CONV1D.fullmatch(name) is not None
        key = name if name.startswith("lm_head.") else prefix + name
        theirs[key] = (tensor.T if turned else tensor).contiguous()
    return theirs


def _config(base: Base, family: str, dtype: torch.dtype) -> dict[str, Any]:
    head, tokens = base.head, _token_ids(base)
    own: dict[str, Any] = {"task": base.task, "checkpoint": base.id}
    if head is None:
        of_class = FAMILIES[family].model_class
        return {**config_values(base.config, of_class, tokens, dtype), OWN: own}
    labels = head.labels
    own |= {"positive": labels.positive, "threshold": labels.threshold}
    return {
        **config_values(base.config, FAMILIES[family].classifier_class, tokens, dtype),
        "tie_word_embeddings": True,  # without an output layer there is nothing to untie
        "id2label": {str(index): name for index, name in enumerate(labels.names)},
        "label2id": {name: index for index, name in enumerate(labels.names)},
        "problem_type": "single_label_classification",
        OWN: own,
    }


def _token_ids(base: Base) -> dict[str, Any]:
    """Text never encodes to the padding token, so a classifier's last real token is found."""
    special, stops = base.tokenizer.special, list(base.stop_tokens)
    return {
        "bos_token_id": special.beginning,
        "eos_token_id": stops[0] if len(stops) == 1 else stops,
        "pad_token_id": special.pad,
    }
