"""The classification head: what decides, and which token it looks at."""

from typing import Any

import pytest
import torch

from model.classifier import ClassifierHead, Labels, last_token
from model.errors import UsageError
from model.transformer import Transformer

SPAM = Labels(("ham", "spam"), positive="spam", threshold=0.8)


@pytest.mark.parametrize(
    ("labels", "probabilities", "threshold", "answer"),
    [
        (SPAM, (0.3, 0.7), None, "ham"),
        (SPAM, (0.2, 0.8), None, "spam"),
        (SPAM, (0.3, 0.7), 0.6, "spam"),
        (SPAM, (0.3, 0.7), 0.71, "ham"),
        (SPAM, (0.9, 0.1), 0.1, "spam"),
        (Labels(("spam", "ham"), positive="spam", threshold=0.8), (0.85, 0.15), None, "spam"),
        (Labels(("spam", "ham"), positive="spam", threshold=0.8), (0.7, 0.3), None, "ham"),
        (Labels(("a", "b", "c")), (0.3, 0.3, 0.4), None, "c"),
        (Labels(("a", "b", "c")), (0.4, 0.4, 0.2), None, "a"),
        (Labels(("a", "b", "c")), (0.1, 0.5, 0.4), 0.99, "b"),
    ],
)
def test_decide(
    labels: Labels, probabilities: tuple[float, ...], threshold: float | None, answer: str
) -> None:
    assert labels.decide(probabilities, threshold) == answer


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"names": ("one",)}, "two or more"),
        ({"names": ("a", "a")}, "distinct"),
        ({"names": ("a", "b"), "positive": "c"}, "'c'"),
        ({"names": ("a", "b", "c"), "positive": "a"}, "one of two labels"),
        ({"names": ("a", "b"), "threshold": 0.0}, "threshold is 0"),
        ({"names": ("a", "b"), "threshold": 1.0}, "threshold is 1"),
        ({"names": ("a", "b"), "temperature": 0.0}, "temperature is 0"),
    ],
)
def test_labels_that_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Labels(**values)


def test_temperature_sharpens_or_flattens() -> None:
    pooled = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    heads = [ClassifierHead(8, Labels(("a", "b", "c"), temperature=t)) for t in (1.0, 2.0)]
    heads[0].init_weights(torch.Generator().manual_seed(1))
    heads[1].load_state_dict(heads[0].state_dict())
    plain, flat = (head.probabilities(pooled) for head in heads)
    assert torch.allclose(plain, torch.softmax(heads[0](pooled), -1))
    assert torch.allclose(flat, torch.softmax(heads[0](pooled) / 2, -1))
    assert torch.allclose(flat.sum(-1), torch.ones(5))


@torch.no_grad()
def test_the_last_real_token_is_pooled(model: Transformer) -> None:
    """A row's answer is that of the row alone, however much padding follows, and whichever."""
    rows = [torch.arange(5), torch.arange(40, 52), torch.tensor([7])]
    head = ClassifierHead(32, Labels(("a", "b")))
    head.init_weights(torch.Generator().manual_seed(0))
    alone = torch.cat([head(model(row[None])[:, -1]) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    for pad in (260, 0):
        batch = torch.full((3, 20), pad)
        for row, tokens in zip(batch, rows, strict=True):
            row[: len(tokens)] = tokens
        assert torch.allclose(head(last_token(model(batch), lengths)), alone, atol=1e-5)
