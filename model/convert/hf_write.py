"""Hugging Face's GPT-2 directory, for `transformers` and all that reads its files.

A language model becomes `GPT2LMHeadModel`, a classifier `GPT2ForSequenceClassification`. The end
token is also their padding token: text never encodes to it here, so a classifier's last real token
is found. The decision threshold of a classifier has no place there: `argmax` decides at 0.5. It is
kept in `config.json` under "penwright", where our own import finds it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.architecture import Architecture
from model.checkpoint import Base
from model.checkpoint.files import dtype_name, write_json, write_weights
from model.convert.bpe_files import write_tokenizer
from model.convert.families import HF_GPT2, require_gpt2, their_names
from model.convert.hf_head import fold
from model.convert.hf_read import CONFIG, CONV1D, MODEL, OWN
from model.prompts import instruction_prompt

_BEFORE, _AFTER = instruction_prompt("\0").split("\0")
CHAT_TEMPLATE = (
    "{%- set found = namespace(text='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{%- set found.text = message['content'] -%}{%- endif -%}"
    "{%- endfor -%}"
    f"{{{{- {_BEFORE!r} + found.text + {_AFTER!r} -}}}}"
)
"""The instruction template for `apply_chat_template` and llama.cpp. Models are trained on single
turns: the last message of the user is the instruction."""


def write_hugging_face(directory: Path, base: Base, dtype: torch.dtype) -> None:
    """Fill `directory` with the model, its configuration and its tokenizer.

    Args:
        base: loaded in fp32 on the CPU, without an adapter.
        dtype: of the stored weights.

    Raises:
        UsageError: its tokenizer or its head has no form there; says why.
    """
    require_gpt2(base.config, "--format hf")
    weights = hugging_face_weights(dict(base.model.state_dict()), "transformer.")
    if base.head is not None:
        weights.pop("lm_head.weight", None)
        norm = "transformer.ln_f.bias"
        weights["score.weight"], weights[norm] = fold(base.head, weights[norm])
    write_weights(directory / MODEL, weights, dtype, {"format": "pt"})
    write_json(directory / CONFIG, _config(base, dtype))
    settings: dict[str, Any] = {"model_max_length": base.config.context_length}
    if base.head is not None:
        settings["padding_side"] = "right"  # positions are counted from the left
    else:
        write_json(directory / "generation_config.json", _generation(base))
    if base.task == "instruct":
        settings["chat_template"] = CHAT_TEMPLATE
    write_tokenizer(directory, base.tokenizer, settings)


def hugging_face_weights(weights: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A network's tensors under their names; their projections are stored (in, out).

    Args:
        prefix: before all names but that of the output head, which is beside the network there.
    """
    theirs = {}
    for name, value in weights.items():
        [their] = their_names(HF_GPT2, name)
        turned = CONV1D.fullmatch(their) is not None
        key = their if their.startswith("lm_head.") else prefix + their
        theirs[key] = (value.T if turned else value).contiguous()
    return theirs


def hugging_face_config(
    config: Architecture, architecture: str, end_token: int, dtype: torch.dtype
) -> dict[str, Any]:
    """What their `config.json` holds for any GPT-2."""
    return {
        "architectures": [architecture],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": None,
        "bos_token_id": end_token,
        "eos_token_id": end_token,
        "pad_token_id": end_token,
        "tie_word_embeddings": config.tied,
        "dtype": dtype_name(dtype),
    }


def _config(base: Base, dtype: torch.dtype) -> dict[str, Any]:
    head, end = base.head, base.tokenizer.end_token
    own: dict[str, Any] = {"task": base.task, "checkpoint": base.id}
    if head is None:
        return {**hugging_face_config(base.config, "GPT2LMHeadModel", end, dtype), OWN: own}
    labels = head.labels
    own |= {"positive": labels.positive, "threshold": labels.threshold}
    return {
        **hugging_face_config(base.config, "GPT2ForSequenceClassification", end, dtype),
        "tie_word_embeddings": True,  # without an output layer there is nothing to untie
        "id2label": {str(index): name for index, name in enumerate(labels.names)},
        "label2id": {name: index for index, name in enumerate(labels.names)},
        "problem_type": "single_label_classification",
        OWN: own,
    }


def _generation(base: Base) -> dict[str, Any]:
    end, stops = base.tokenizer.end_token, list(base.stop_tokens)
    return {
        "bos_token_id": end,
        "eos_token_id": stops[0] if len(stops) == 1 else stops,
        "pad_token_id": end,
    }
