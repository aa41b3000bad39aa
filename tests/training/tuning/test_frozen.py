"""Frozen parts of a network cost no gradient, and what they make of a text is computed once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.architecture import Architecture
from model.checkpoint import Base, save_base
from model.classifier import Labels
from model.errors import PenwrightError
from model.lora import LoRA, LoRASettings
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from training.data.labelled import Example
from training.loop.run import Run
from training.loop.settings import LoopSettings
from training.objectives.labels import Classification, Options, Rows, encode
from training.tuning.frozen import FrozenStates
from training.tuning.methods import start_tuning

LABELS = Labels(("ham", "spam"), positive="spam")
families = pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)


@pytest.fixture
def rows(spam_rows: list[tuple[str, str]], base: Base) -> Rows:
    examples = [Example(*row) for row in spam_rows]
    return encode(examples, LABELS.names, base.tokenizer, base.config.context_length)


def classification(
    base: Base,
    method: str,
    rows: Rows,
    cache: Path | None = None,
    options: Options | None = None,
    **changes: Any,
) -> Classification:
    settings = LoopSettings(steps=8, batch_size=8, lr=0.01, device="cpu", precision="fp32")
    settings = LoopSettings(**{**vars(settings), **changes})
    tuning = start_tuning(base, method, LoRASettings(rank=4), LABELS, settings)
    return Classification(tuning, rows, rows, settings, options, cache=cache)


def leaves(loss: Tensor) -> set[int]:
    """Of all parameters that the backward pass of `loss` reaches, the ids."""
    found, seen, stack = set(), set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        stack += [following for following, _ in node.next_functions]
    return found


@families
@pytest.mark.parametrize("method", ["lora", "last-block", "head"])
@pytest.mark.parametrize("lm_weight", [0.0, 0.5])
def test_no_gradient_is_computed_or_kept_for_what_is_frozen(
    method: str, lm_weight: float, base: Base, rows: Rows
) -> None:
    task = classification(base, method, rows, options=Options(lm_weight=lm_weight))
    loss = task.loss(task.batch(range(8)))
    learns = {id(p) for p in task.trained.parameters() if p.requires_grad}
    assert leaves(loss) == learns
    loss.backward()
    network = task.network
    for name, parameter in network.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if method != "last-block":
            assert not parameter.requires_grad
    assert all(p.grad is not None for p in task.trained.parameters() if p.requires_grad)


@families
def test_the_backward_pass_of_the_last_block_ends_there(base: Base, rows: Rows) -> None:
    task = classification(base, "last-block", rows)
    seen: list[bool] = []
    for block in task.network.model.blocks:
        block.register_forward_hook(lambda m, args, out: seen.append(out.requires_grad))
    task.loss(task.batch(range(8)))
    assert seen == [False, True]


@families
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora", "last-block", "head"])
def test_what_is_frozen_takes_no_memory_but_its_own(
    method: str, precision: str, base: Base, rows: Rows, tmp_path: Path
) -> None:
    """No gradient, no state of the optimizer, and below the first layer that learns nothing that a
    forward pass keeps."""
    task = classification(base, method, rows, precision=precision)
    model, kept = task.network.model, dict.fromkeys(("block 0", "block 1", "rest"), 0)
    within = ["rest"]

    def keep(tensor: Tensor) -> Tensor:
        kept[within[-1]] += tensor.nbytes
        return tensor

    for index, block in enumerate(model.blocks):
        block.register_forward_pre_hook(
            lambda m, args, index=index: within.append(f"block {index}")
        )
        block.register_forward_hook(lambda m, args, out: within.remove(within[-1]))
    run = Run(task, task.settings, tmp_path)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run.step()
    learns = {id(p): p for p in task.trained.parameters() if p.requires_grad}
    states = [state for each in run.optimizer.optimizers for state in each.state.items()]
    assert {id(parameter) for parameter, _ in states} == set(learns)
    held = sum(v.nbytes for _, state in states for v in state.values() if v.ndim)
    assert held == sum(2 * p.nbytes for p in learns.values())
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert kept["rest"] > 0
    assert (kept["block 0"] > 0) == (method in ("full", "lora"))
    assert (kept["block 1"] > 0) == (method != "head")


@families
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("method", "dropout"), [("head", 0.0), ("last-block", 0.0), ("last-block", 0.2)]
)
def test_training_from_kept_states_is_the_same_training(
    method: str,
    dropout: float,
    in_memory: bool,
    base: Base,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not in_memory:

        def on_disk(self: Classification, method: str, some: Rows, file: Path) -> FrozenStates:
            return FrozenStates(self.network, method, some.tokens, self.padding, limit=0, file=file)

        monkeypatch.setattr(Classification, "_states_of", on_disk)
    results = []
    for cache in (None, tmp_path / "cache"):
        options = Options(lm_weight=0.3 if method == "last-block" else 0.0)
        task = classification(base, method, rows, cache, options, dropout=dropout)
        assert (task._train_states is not None) == (cache is not None)
        directory = tmp_path / f"run-{cache is not None}"
        Run(task, task.settings, directory).train()
        weights = {n: p.detach() for n, p in task.trained.named_parameters() if p.requires_grad}
        results.append((weights, task.evaluate()))
    assert task._train_states is not None
    assert task._train_states.in_memory == in_memory
    assert not (tmp_path / "cache").exists()  # its file is mapped, and has no name any more
    (plain, plain_metrics), (kept, kept_metrics) = results
    for name, weight in plain.items():
        compared = slice(None)
        if name.endswith("qkv.bias"):
            # A bias of the keys changes no attention: its gradient is rounding, which AdamW turns
            # into steps of full size.
            compared = torch.ones(len(weight), dtype=torch.bool)
            compared[len(weight) // 3 : 2 * len(weight) // 3] = False
        assert torch.allclose(weight[compared], kept[name][compared], atol=2e-5), name
    assert kept_metrics == pytest.approx(plain_metrics, abs=1e-4)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_filled_is_deleted(
    error: BaseException, base: Base, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = classification(base, "last-block", rows).network
    compute = FrozenStates._compute

    def failing(self: FrozenStates, first: int) -> Iterator[Any]:
        yield next(compute(self, first))
        raise error

    monkeypatch.setattr(FrozenStates, "_compute", failing)
    file = tmp_path / "states" / "train-0.bin"
    with pytest.raises((PenwrightError, KeyboardInterrupt)):
        FrozenStates(network, "last-block", rows.tokens, 0, limit=0, file=file)
    assert list(tmp_path.iterdir()) == []


@families
def test_kept_states_spare_the_frozen_part(base: Base, rows: Rows, tmp_path: Path) -> None:
    task = classification(base, "last-block", rows, tmp_path)
    calls: list[int] = []
    for index, block in enumerate(task.network.model.blocks):
        block.register_forward_hook(lambda m, args, out, index=index: calls.append(index))
    task.loss(task.batch(range(8)))
    task.evaluate()
    assert set(calls) == {1}
    task = classification(base, "last-block", rows, tmp_path, Options(cache_mb=0))
    assert task._train_states is None


@families
def test_states_of_a_row_do_not_depend_on_the_others(
    base: Base, rows: Rows, tmp_path: Path
) -> None:
    task = classification(base, "last-block", rows, tmp_path)
    assert task._train_states is not None
    together = task._train_states.batch(range(20))
    for i in (0, 7, 19):
        length = len(rows.tokens[i])
        one = FrozenStates(
            task.network,
            "last-block",
            [rows.tokens[i]],
            0,
            limit=10**6,
            file=tmp_path / "one.bin",
        )
        assert np.allclose(one.batch([0])[0], together[i, :length], atol=1e-5)
        assert not together[i, length:].any()


@pytest.mark.parametrize("lm_weight", [0.0, 0.5])
@pytest.mark.parametrize("method", ["full", "last-block", "lora"])
def test_an_output_layer_that_the_loss_does_not_reach_does_not_learn(
    method: str, lm_weight: float, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Else it would wait for a gradient for ever (DDP), or decay with none."""
    config = Architecture(tokenizer.vocab_size, 32, n_layer=2, n_head=2, n_embd=16, tied=False)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(1))
    base = save_base(tmp_path / "untied", model, tokenizer, card={})
    rows = Rows(((1, 2, 3), (4, 5)), (0, 1), 0)
    task = classification(base, method, rows, options=Options(lm_weight=lm_weight))
    loss = task.loss(task.batch(range(2)))
    learns = {id(p) for p in task.trained.parameters() if p.requires_grad}
    assert leaves(loss) == learns
    head = task.network.model.head
    assert head is not None
    assert head.weight.requires_grad == (method == "full" and lm_weight > 0)


def test_what_the_books_adapters_count() -> None:
    """The book has separate projections and wraps its head, and counts 2,666,528."""
    with torch.device("meta"):
        config = Architecture(50257, 1024, n_layer=12, n_head=12, n_embd=768)
        lora = LoRA(config, LoRASettings(rank=16))
        head = torch.nn.Linear(768, 2)
        assert Transformer(config).parameter_count() == 124_439_808
    assert sum(p.numel() for p in lora.parameters()) == 2_359_296
    assert sum(p.numel() for p in head.parameters()) == 1_538
