"""The loss in chunks: the bits of the loss in one piece of graph, and none of its memory."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.architecture import Architecture
from model.frozen import Held, hold
from model.transformer import Transformer
from training.objectives.cross_entropy import (
    IGNORE,
    chunk_rows,
    row_log_probs,
    token_loss,
    token_losses,
)

Loss = Callable[[Transformer, Tensor, Tensor], Tensor]


def network(vocab: int, *, tied: bool = True) -> Transformer:
    model = Transformer(Architecture(vocab, 8, n_layer=1, n_head=1, n_embd=16, tied=tied))
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def inputs(model: Transformer, rows: int) -> tuple[Tensor, Tensor]:
    """Hidden states and targets, of which every seventh does not count."""
    draw = torch.Generator().manual_seed(2)
    hidden = torch.randn(4, rows // 4, 16, generator=draw).requires_grad_()
    targets = torch.randint(model.config.vocab_size, (4, rows // 4), generator=draw)
    targets.view(-1)[::7] = IGNORE
    return hidden, targets


def chunks(model: Transformer, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and targets of each chunk, of which autograd keeps everything."""
    counted = targets.flatten() != IGNORE
    hidden, targets = hidden.flatten(0, 1)[counted], targets.flatten()[counted]
    rows = chunk_rows(model.config.vocab_size)
    for part, goal in zip(hidden.split(rows), targets.split(rows), strict=True):
        yield model.logits(part).float(), goal


def plain_sum(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    total = torch.zeros(())
    for logits, goal in chunks(model, hidden, targets):
        total = total + F.cross_entropy(logits, goal, reduction="sum")
    return total


def plain_rows(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    found = chunks(model, hidden, targets)
    losses = torch.cat([F.cross_entropy(h, goal, reduction="none") for h, goal in found])
    rows, _ = (targets != IGNORE).nonzero(as_tuple=True)
    return torch.zeros(len(targets)).index_add(0, rows, -losses)


def first_of_two(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    return token_loss(model, hidden, targets)[0]


def gradients(loss: Loss, model: Transformer, hidden: Tensor, targets: Tensor) -> list[Tensor]:
    """The loss, and the gradients of the hidden states and of all weights that it reaches."""
    found = loss(model, hidden, targets)
    learning = [hidden, *(p for p in model.parameters() if p.requires_grad)]
    weighted = (found * torch.arange(1, found.numel() + 1).view_as(found)).sum()
    more = torch.autograd.grad(weighted, learning, allow_unused=True)
    return [found.detach(), *(gradient for gradient in more if gradient is not None)]


@pytest.mark.parametrize(
    ("ours", "plain"), [(first_of_two, plain_sum), (row_log_probs, plain_rows)]
)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("vocab", "rows"), [(8192, 2400), (8192, 400), (50257, 800)])
def test_the_same_to_the_bit(
    ours: Loss, plain: Loss, tied: bool, autocast: bool, vocab: int, rows: int
) -> None:
    model = network(vocab, tied=tied)
    hidden, targets = inputs(model, rows)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        one = gradients(ours, model, hidden, targets)
        two = gradients(plain, model, hidden, targets)
    assert len(one) == len(two) == 3
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def kept(model: Transformer, loss: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss().sum().backward()
    return sum(found.values())


@pytest.mark.parametrize("ours", [first_of_two, row_log_probs])
@pytest.mark.parametrize("vocab", [8192, 50257, 151936])
def test_what_is_kept_does_not_grow_with_the_vocabulary(ours: Loss, vocab: int) -> None:
    model = network(vocab)
    rows = 3 * chunk_rows(vocab) // 4 * 4
    hidden, targets = inputs(model, rows)
    # Hidden states, chosen and as they came, targets, places and losses.
    assert kept(model, lambda: ours(model, hidden, targets)) < 4 * hidden.nbytes + 64 * rows


def test_rows_of_a_chunk() -> None:
    """At the size of `small` as ever; elsewhere no more logits than there."""
    sizes = {512: 1024, 8192: 1024, 50257: 166, 151936: 55, 10**6: 32}
    assert {vocab: chunk_rows(vocab) for vocab in sizes} == sizes


def test_frozen_networks_and_evaluations_compute_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what learns pays for the second product."""
    model, calls = network(50257), []
    logits = Transformer.logits

    def counted(self: Transformer, hidden: Tensor) -> Tensor:
        calls.append(len(hidden))
        return logits(self, hidden)

    monkeypatch.setattr(Transformer, "logits", counted)
    hidden, targets = inputs(model, 400)
    with torch.no_grad():
        token_loss(model, hidden, targets)
    count = len(calls)
    assert count == -(-int((targets != IGNORE).sum()) // chunk_rows(50257))
    token_loss(model, hidden, targets)[0].backward()
    assert len(calls) == 3 * count


def test_no_target_is_no_loss() -> None:
    model = network(512)
    hidden, targets = inputs(model, 8)
    total, count = token_loss(model, hidden, torch.full_like(targets, IGNORE))
    assert (total.item(), count) == (0.0, 0)
    assert token_losses(model, hidden[0, :0], targets[0, :0]).shape == (0,)


@pytest.mark.parametrize(
    ("ours", "plain"), [(first_of_two, plain_sum), (row_log_probs, plain_rows)]
)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("held", ["fp32", "bf16", "int8"])
def test_a_frozen_output_layer_gives_the_same_gradient(
    ours: Loss, plain: Loss, tied: bool, autocast: bool, held: Held
) -> None:
    model = network(8192, tied=tied)
    hold(model, held)
    hidden, targets = inputs(model, 2400)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        one = gradients(ours, model, hidden, targets)
        two = gradients(plain, model, hidden, targets)
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert (a - b).norm() <= (4e-3 if autocast else 1e-6) * b.norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_the_gradient_of_what_is_well_known_is_exact(autocast: bool) -> None:
    """Where the probability of the target is all but 1, what is left of it must not be rounded."""
    model = network(512).requires_grad_(False)
    hidden, _ = inputs(model, 8)
    targets = model.logits(hidden).argmax(-1)
    hidden = (hidden * 300).detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        one = gradients(first_of_two, model, hidden, targets)
        two = gradients(plain_sum, model, hidden, targets)
    assert float(one[0]) < 1
    for a, b in zip(one, two, strict=True):
        assert (a - b).norm() <= (4e-3 if autocast else 1e-4) * b.norm()


@pytest.mark.parametrize("ours", [first_of_two, row_log_probs])
def test_of_a_frozen_output_layer_the_gradient_alone_is_kept(ours: Loss) -> None:
    model = network(50257).requires_grad_(False)
    hidden, targets = inputs(model, 3 * chunk_rows(50257) // 4 * 4)
    bound = 4 * hidden.nbytes + 64 * targets.numel()
    assert kept(model, lambda: ours(model, hidden, targets)) < bound


def test_a_frozen_output_layer_multiplies_twice() -> None:
    """Once for the logits and once for the gradient, whatever the number of chunks."""
    model = network(8192).requires_grad_(False)
    hidden, targets = inputs(model, 2400)
    counted = int((targets != IGNORE).sum())
    with FlopCounterMode(display=False) as counter:
        token_loss(model, hidden, targets)[0].backward()
    assert counter.get_total_flops() == 2 * 2 * counted * 16 * 8192
