"""Our classification head in the form of `…ForSequenceClassification`.

Ours is softmax((W h + b) / T) on the output h of the last norm. Theirs is softmax(W′ h′), without a
bias. The temperature divides W and b. On a base with RMS norm a head has no bias, and that is all.
GPT-2's moves into the layer norm before: the norm's own bias grows by a δ with W δ = b + c, for any
number c that is the same for all labels, since softmax does not see it. Probabilities are then the
same but for rounding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.architecture import Architecture
from model.classifier import BIAS, ClassifierHead, Labels, has_bias
from model.convert.families import FAMILIES
from model.errors import CheckpointError, UsageError
from model.weight_files import assign

_LARGEST_REST = 1e-4
"""Of a logit, that the shifted layer norm may leave unexplained."""


def calibrated_weight(head: ClassifierHead) -> Tensor:
    """Of a head without a bias, the weight with the temperature in it: (labels, n_embd) fp32"""
    return (head.score.weight.detach().double() / head.labels.temperature).float()


def fold(head: ClassifierHead, norm_bias: Tensor) -> tuple[Tensor, Tensor]:
    """A head without bias and temperature, and the layer norm's bias that goes with it.

    Args:
        norm_bias: of the last layer norm, (n_embd,)

    Returns:
        W′ (labels, n_embd) and the new bias (n_embd,), fp32

    Raises:
        UsageError: no shift of the layer norm has the effect of the bias.
    """
    weight, bias = (p.detach().double() for p in (head.score.weight, head.score.bias))
    # Without what all labels share, which softmax does not see: fewer demands, a smaller shift.
    seen, wanted = weight - weight.mean(0), bias - bias.mean()
    shift = torch.linalg.pinv(seen) @ wanted
    rest = float((seen @ shift - wanted).abs().max())
    if not rest <= _LARGEST_REST:
        raise UsageError(
            "--format: the bias of the classification head cannot be folded into the last layer "
            f"norm (a logit would be off by {rest:.3g}), and GPT2ForSequenceClassification has "
            "none: its weights do not tell the labels apart"
        )
    return calibrated_weight(head), (norm_bias.double() + shift).float()


def check_head(head: ClassifierHead, family: str, what: str) -> None:
    """Refuse heads that read more than the last token, and those with a bias, as all had once,
    where nothing can take it.

    Raises:
        UsageError: says which family it is, and why.
    """
    if head.pooling != "last":
        raise UsageError(
            f"{what}: the classification head reads the mean of all hidden states beside the last "
            f"one (--pooling {head.pooling}), and {FAMILIES[family].classifier_class} the last "
            "one only"
        )
    if head.biased and family != "gpt2":
        raise UsageError(
            f"{what}: the classification head has a bias, and {FAMILIES[family].classifier_class} "
            f"none; the network is {family}, whose last norm has no bias that could take that of "
            "the head (one that is trained now has none)"
        )


def unfold(weight: Tensor, norm_bias: Tensor, base_norm_bias: Tensor) -> Tensor:
    """The bias that a shifted layer norm stands for on a base with its own, (labels,)."""
    return (weight.double() @ (norm_bias.double() - base_norm_bias.double())).float()


def labels_of(named: Mapping[str, Any], own: Mapping[str, Any], source: Path) -> Labels:
    """What the outputs mean.

    Args:
        named: the labels by "0", "1"…
        own: what our export wrote of the decision, if it did.
    """
    if list(named) != [str(i) for i in range(len(named))]:
        raise CheckpointError(f"{source}: labels are numbered {list(named)}; not from 0 on")
    names = tuple(str(name) for name in named.values())
    try:
        return Labels(names, own.get("positive"), own.get("threshold", 0.5))
    except (UsageError, TypeError) as error:
        raise CheckpointError(f"{source}: {error}") from error


def read_head(
    score: Tensor,
    config: Architecture,
    values: Mapping[str, Any],
    own: Mapping[str, Any],
    source: Path,
) -> ClassifierHead:
    """A head with the weights of theirs, which has neither bias nor temperature.

    Args:
        score: (labels, n_embd)
        config: of the network.
        values: the content of `source`, their config.json.
        own: what our export added.

    Raises:
        CheckpointError: weights, labels and configuration do not fit.
    """
    kind, width = values.get("problem_type"), config.n_embd
    if kind not in (None, "single_label_classification"):
        raise CheckpointError(
            f"{source}: problem_type is {kind!r}; only 'single_label_classification' is supported"
        )
    if score.ndim != 2 or score.shape[1] != width:
        raise CheckpointError(
            f"{source}: score.weight has the shape {tuple(score.shape)} in place of "
            f"(labels, {width})"
        )
    named = values.get("id2label") or {str(i): f"LABEL_{i}" for i in range(len(score))}
    if len(named) != len(score):
        raise CheckpointError(
            f"{source}: id2label names {len(named)} labels, but score.weight has {len(score)} rows"
        )
    return new_head(labels_of(named, own, source), config, score, torch.zeros(len(score)), source)


def new_head(
    labels: Labels, config: Architecture, score: Tensor, bias: Tensor, source: Path
) -> ClassifierHead:
    """A head on a network, of the kind that training would make there.

    Args:
        score: (labels, n_embd)
        bias: (labels,), for a network on which heads have one.
        source: of the weights, for errors.
    """
    biased = has_bias(config)
    with torch.device("meta"):
        head = ClassifierHead(config.n_embd, labels, bias=biased)
    assign([head], {"score.weight": score, **({BIAS: bias} if biased else {})}, source)
    return head.eval()
