"""Our classification head in the form of `GPT2ForSequenceClassification`.

Ours is softmax((W h + b) / T) on the output h of the last layer norm. Theirs is softmax(W′ h′),
without a bias. The temperature divides W and b. The bias moves into the layer norm before: its own
bias grows by a δ with W δ = b + c, for any number c that is the same for all labels, since softmax
does not see it. Probabilities are then the same but for rounding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.classifier import ClassifierHead, Labels
from model.errors import CheckpointError, UsageError

_LARGEST_REST = 1e-4
"""Of a logit, that the shifted layer norm may leave unexplained."""


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
    return (weight / head.labels.temperature).float(), (norm_bias.double() + shift).float()


def check_family(family: str, what: str) -> None:
    """Refuse classifiers of other families.

    Raises:
        UsageError: says which it is, and why.
    """
    if family != "gpt2":
        raise UsageError(
            f"{what}: classifiers can be exported with GPT-2's choices alone; the network is "
            f"{family}, whose last norm has no bias that could take that of the head"
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
    score: Tensor, values: Mapping[str, Any], own: Mapping[str, Any], source: Path
) -> ClassifierHead:
    """A head with the weights of theirs, which has neither bias nor temperature.

    Args:
        score: (labels, n_embd)
        values: the content of `source`, their config.json.
        own: what our export added.

    Raises:
        CheckpointError: weights, labels and configuration do not fit.
    """
    kind, width = values.get("problem_type"), values["n_embd"]
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
    head = ClassifierHead(width, labels_of(named, own, source))
    head.load_state_dict({"score.weight": score, "score.bias": torch.zeros(len(score))})
    return head.eval()
