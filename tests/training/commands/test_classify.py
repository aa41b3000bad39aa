"""`penwright-train classify`: what learns, what is measured, what is published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from model.checkpoint import Base, is_adapter, load_adapter, load_base
from model.classifier import Labels
from model.errors import ContextLengthError
from model.lora import LoRASettings
from training.commands.classify import METHODS
from training.data.augment import Augmentation, Copies, augmented
from training.data.labelled import Example
from training.loop.run import Run
from training.loop.settings import LoopSettings
from training.measure.classifiers import all_logits, row_logits
from training.objectives.labels import Classification, Options, Rows, class_weights, encode
from training.tuning.methods import Tuning, start_tuning

Cli = Callable[..., tuple[int, str]]
LABELS = Labels(("ham", "spam"), positive="spam")
SHORT = ("--steps", 6, "--warmup", 1, "--batch-size", 4, "--eval-every", 3, "--lr", 0.01)
families = pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)


def tuning(base: Base, method: str, labels: Labels = LABELS, **changes: Any) -> Tuning:
    settings = LoopSettings(steps=4, **changes)
    return start_tuning(base, method, LoRASettings(rank=4), labels, settings)


def as_rows(spam_rows: list[tuple[str, str]], base: Base) -> Rows:
    examples = [Example(*row) for row in spam_rows]
    return encode(examples, LABELS.names, base.tokenizer, base.config.context_length)


def card(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((path / "card.json").read_text())
    return result


@families
def test_padding_does_not_change_a_row(base: Base, spam_rows: list[tuple[str, str]]) -> None:
    network = tuning(base, "lora").network
    tokens = torch.tensor([base.tokenizer.encode(spam_rows[0][1])])
    length = torch.tensor([tokens.shape[1]])
    alone = row_logits(network, tokens, length)
    for value in (0, base.tokenizer.end_token):
        padding = torch.full((1, 30), value)
        padded = row_logits(network, torch.cat([tokens, padding], dim=1), length)
        assert torch.allclose(alone, padded, atol=1e-6)


@families
def test_a_row_is_the_same_in_every_batch(base: Base, spam_rows: list[tuple[str, str]]) -> None:
    network = tuning(base, "lora").network
    rows = as_rows(spam_rows, base)
    together = all_logits(network, rows, padding=0)
    for index in (0, 7, 50):
        tokens = torch.tensor([rows.tokens[index]])
        with torch.no_grad():
            alone = row_logits(network, tokens, torch.tensor([len(rows.tokens[index])]))
        assert np.allclose(together[index], alone[0].numpy(), atol=1e-6)


def test_the_last_real_token_is_pooled(base: Base) -> None:
    network = tuning(base, "lora").network
    tokens = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
    logits = row_logits(network, tokens, torch.tensor([3, 5]))
    short = row_logits(network, tokens[1:, :3], torch.tensor([3]))
    assert torch.allclose(logits[0], short[0], atol=1e-6)
    assert not torch.allclose(logits[0], logits[1], atol=1e-6)


def learnt(method: str) -> set[str]:
    """Parts of the network that a method moves, as prefixes of parameter names."""
    return {
        "lora": {"head.score", "lora.a", "lora.b"},
        "head": {"head.score"},
        "last-block": {"head.score", "model.blocks.1", "model.norm"},
        "full": {
            "head.score",
            "model.embedding",
            "model.positions",
            "model.blocks.0",
            "model.blocks.1",
            "model.norm",
        },
    }[method]


@families
@pytest.mark.parametrize("method", METHODS)
def test_a_method_moves_what_it_names_and_nothing_else(
    method: str, base: Base, spam_rows: list[tuple[str, str]], tmp_path: Path
) -> None:
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    settings = LoopSettings(steps=4, lr=0.01, device="cpu")
    tuned = tuning(base, method)
    start = {name: p.clone() for name, p in tuned.trained.named_parameters()}
    rows = as_rows(spam_rows, base)
    task = Classification(tuned, rows, rows, settings)
    task.keep_best = False
    Run(task, settings, tmp_path).train()
    moved = {n for n, p in tuned.trained.named_parameters() if not torch.equal(p, start[n])}
    assert moved == {n for n in start if n.startswith(tuple(learnt(method)))}
    for name, parameter in base.model.named_parameters():
        assert torch.equal(parameter, before[name]), f"the base itself changed: {name}"


def test_an_epoch_teaches_the_difference(
    base: Base, spam_rows: list[tuple[str, str]], tmp_path: Path
) -> None:
    settings = LoopSettings(epochs=10, batch_size=8, lr=0.01, device="cpu", eval_batches=0)
    rows = as_rows(spam_rows, base)
    task = Classification(tuning(base, "lora"), rows, rows, settings)
    before = task.evaluate()
    Run(task, settings, tmp_path).train()
    after = task.evaluate()
    assert after["val_loss"] < before["val_loss"] / 2
    assert after["val_f1"] > 0.9


def test_class_weights_make_labels_count_the_same(
    base: Base, spam_rows: list[tuple[str, str]]
) -> None:
    rows = as_rows(spam_rows, base)
    weights = class_weights(rows)
    assert weights == pytest.approx([90 / 120, 90 / 60])
    settings = LoopSettings(steps=4, device="cpu")
    plain = Classification(tuning(base, "head"), rows, rows, settings)
    weighted = Classification(tuning(base, "head"), rows, rows, settings, Options("balanced"))
    spam = [i for i in range(len(rows.targets)) if rows.targets[i] == 1][:3]
    ratio = weighted.loss(weighted.batch(spam)) / plain.loss(plain.batch(spam))
    assert ratio.item() == pytest.approx(1.5)


def test_the_next_token_loss_is_a_sum_over_rows_and_knows_no_padding(
    base: Base, spam_rows: list[tuple[str, str]]
) -> None:
    rows = as_rows(spam_rows, base)
    settings = LoopSettings(steps=4, device="cpu", precision="fp32")
    plain = Classification(tuning(base, "lora"), rows, rows, settings)
    both = Classification(tuning(base, "lora"), rows, rows, settings, Options(lm_weight=0.5))
    chosen = [0, 3, 8]
    added = both.loss(both.batch(chosen)) - plain.loss(plain.batch(chosen))
    apart = [both.loss(both.batch([i])) - plain.loss(plain.batch([i])) for i in chosen]
    assert added.item() == pytest.approx(sum(part.item() for part in apart), rel=1e-4)
    expected = 0.0
    for i in chosen:
        tokens = torch.tensor(rows.tokens[i])
        logits = base.model.logits(base.model(tokens[None]))[0, :-1]
        expected += torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="sum").item()
    mean = sum(len(tokens) - 1 for tokens in rows.tokens) / len(rows.tokens)
    assert added.item() == pytest.approx(0.5 * expected / mean, rel=1e-4)


def test_copies_are_trained_on_and_held_out_texts_stay(
    base: Base, spam_rows: list[tuple[str, str]]
) -> None:
    rows = as_rows(spam_rows, base)
    settings = LoopSettings(steps=4, batch_size=8, device="cpu")
    augmentation = Augmentation.parse(["casing=1"])
    texts = [text for _, text in spam_rows]
    copies = Copies(texts, augmentation, 1, base.tokenizer, base.config.context_length)
    task = Classification(tuning(base, "lora"), rows, rows, settings, copies=copies)
    order = task.order()
    assert order is not None
    for epoch in (0, 1):
        indices = [order[epoch * len(texts) + i] for i in range(8)]
        batch = task.batch(indices)
        assert batch.targets.tolist() == [rows.targets[i % len(texts)] for i in indices]
        for row, length, i in zip(batch.inputs, batch.lengths, indices, strict=True):
            copy = augmented(texts[i % len(texts)], augmentation, (1, epoch, i % len(texts)))
            assert row[:length].tolist() == base.tokenizer.encode(copy)
    measured = task._batch(task.val, range(4), None)
    assert measured.inputs[0, : measured.lengths[0]].tolist() == list(rows.tokens[0])


def test_the_books_balance_takes_as_many_of_each(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    command = ("classify", "--base", base_path, "--data", spam_file, "--out", out)
    code, err = cli(*command, "--balance", "undersample", "--positive", "spam", *SHORT)
    assert code == 0, err
    found = card(out)
    assert found["data"]["split"]["counts"]["test"] == {"ham": 7, "spam": 7}
    assert "only as many as the rarest has" in found["data"]["split"]["rule"]
    for part, n in (("train", 38), ("validation", 6)):
        assert found["metrics"][part]["accuracy"]["n"] == n
    # What balancing left out of the test is no test of `evaluate`, either.
    for flags, n in (((), 14), (("--all",), 90)):
        result = tmp_path / "metrics.json"
        code, err = cli("evaluate", out, "--data", spam_file, "--json", result, *flags)
        assert code == 0, err
        assert json.loads(result.read_text())["metrics"]["test_natural"]["n"] == n


def test_long_texts_are_cut_and_counted(base: Base) -> None:
    context = base.config.context_length
    text = "win the prize " * context
    rows = encode(
        [Example("ham", text), Example("spam", "win")], LABELS.names, base.tokenizer, context
    )
    assert rows.truncated == 1
    assert rows.tokens[0] == tuple(base.tokenizer.encode(text)[:context])
    with pytest.raises(ContextLengthError):
        base.model(torch.zeros(1, context + 1, dtype=torch.int64))


@families
@pytest.mark.parametrize("method", METHODS)
def test_the_card_has_what_evaluate_prints_again(
    method: str, base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "spam"
    command = ("classify", "--base", base_path, "--data", spam_file, "--out", out)
    code, err = cli(*command, "--method", method, *SHORT)
    assert code == 0, err
    assert is_adapter(out) == (method in ("lora", "head"))
    written = card(out)
    assert written["metrics"]["test_natural"]["n"] == 18
    assert written["metrics"]["test_balanced"]["n"] == 14
    assert written["data"]["rows"] == 90
    assert written["data"]["files"][0]["file"] == spam_file.name
    assert "SHA-256" in written["data"]["split"]["rule"]
    code, err = cli("evaluate", out, "--data", spam_file, "--json", tmp_path / "metrics.json")
    assert code == 0, err
    again = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert again == {k: v for k, v in written["metrics"].items() if k.startswith("test_")}
    assert (tmp_path / "spam.run" / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_labels_are_any_and_more_than_two(
    base_path: Path, spam_rows: list[tuple[str, str]], tmp_path: Path, cli: Cli
) -> None:
    rows = [(label if i % 3 else "other things", text) for i, (label, text) in enumerate(spam_rows)]
    data = tmp_path / "a.tsv"
    data.write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    out = tmp_path / "out"
    code, err = cli("classify", "--base", base_path, "--data", data, "--out", out, *SHORT)
    assert code == 0, err
    head = load_adapter(out, load_base(base_path)).head
    assert head is not None
    assert head.labels.names == ("ham", "other things", "spam")
    assert head.labels.positive is None


def test_positive_is_the_rarer_label_or_the_one_asked_for(
    base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    for flags, expected in (((), "spam"), (("--positive", "ham"), "ham")):
        out = tmp_path / expected
        command = ("classify", "--base", base_path, "--data", spam_file, "--out", out, *flags)
        code, err = cli(*command, *SHORT)
        assert code == 0, err
        head = load_adapter(out, load_base(base_path)).head
        assert head is not None
        assert head.labels.positive == expected
        assert 0 < head.labels.threshold < 1
        assert head.labels.temperature > 0


@families
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("lora", ("--augment", "all=0.5", "--lm-weight", 0.5)),
        ("lora", ()),
        ("last-block", ()),
    ],
)
def test_a_resumed_run_publishes_the_same_weights(
    method: str,
    changes: tuple[object, ...],
    base_path: Path,
    spam_file: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("classify", "--base", base_path, "--data", spam_file, "--method", method)
    # More than an epoch, so that a text comes in a second copy.
    flags = (*SHORT, "--dropout", 0.1, *changes)
    if changes:
        flags = (*flags, "--steps", 24, "--batch-size", 8)
    assert cli(*command, "--out", tmp_path / "whole", *flags)[0] == 0
    with monkeypatch.context() as patch:
        stop_at_the_third_batch(patch, Classification)
        code, err = cli(*command, "--out", tmp_path / "parts", *flags)
    assert code == 1
    assert "stopped at step 3 of " in err
    assert not (tmp_path / "parts").exists()
    code, err = cli(*command, "--out", tmp_path / "parts", *flags, "--resume")
    assert code == 0, err
    name = "adapter.safetensors" if method == "lora" else "model.safetensors"
    whole, parts = (
        safetensors.torch.load_file(tmp_path / run / name) for run in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert card(tmp_path / "whole")["metrics"] == card(tmp_path / "parts")["metrics"]


def stop_at_the_third_batch(patch: pytest.MonkeyPatch, task: type) -> None:
    """A real SIGTERM, while the third step of a run is computed."""
    import os
    import signal

    calls = []
    original = task.batch  # type: ignore[attr-defined]

    def batch(self: Any, examples: Any) -> Any:
        calls.append(examples)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, examples)

    patch.setattr(task, "batch", batch)


def test_as_many_tokens_train_as_were_asked_for(base_path: Path, tmp_path: Path, cli: Cli) -> None:
    """Padding counts, and is little, since texts of like length come together."""
    data = tmp_path / "texts.tsv"
    rows = (f"{'ab'[i % 2]}\t{'bus ' * (1 + i * 7 % 30)}{i}" for i in range(400))
    data.write_text("\n".join(rows))
    out = tmp_path / "out"
    code, err = cli(
        *("classify", "--base", base_path, "--data", data, "--out", out, "--tokens", 6000),
        *("--batch-size", 8, "--warmup", 1, "--eval-every", 1000),
    )
    assert code == 0, err
    assert 5000 < json.loads((out / "card.json").read_text())["tokens"] < 7000
