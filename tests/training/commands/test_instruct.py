"""`penwright-train instruct`: masks, templates, and what is published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from model.checkpoint import Base, is_adapter, load_adapter, load_base
from model.lora import LoRASettings
from model.prompts import Alpaca, instruction_prompt
from training.data.conversations import Instruction
from training.loop.settings import LoopSettings
from training.loop.task import IGNORE
from training.measure.answers import respond
from training.objectives.conversations import encode, pad
from training.objectives.cross_entropy import token_loss
from training.objectives.responses import InstructionTuning, mean_loss
from training.tuning.methods import start_tuning
from training.tuning.network import Network

Cli = Callable[..., tuple[int, str]]
SHORT = ("--steps", 6, "--warmup", 1, "--batch-size", 4, "--eval-every", 3, "--lr", 0.01)
families = pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)

CONTEXT = 128  # of the base
SHORT_ROW = Instruction("Say bus.", "", "bus")
LONG_ROW = Instruction("Say dinner.", "NOW", "dinner is now")


def test_targets_are_the_response_and_one_end_token(base: Base) -> None:
    tokenizer = base.tokenizer
    pairs = encode([SHORT_ROW, LONG_ROW], tokenizer, CONTEXT, Alpaca()).found
    batch = pad(pairs, tokenizer.end_token, torch.device("cpu"))
    assert batch.count == int((batch.targets != IGNORE).sum())
    for row, pair, source in zip((0, 1), pairs, (SHORT_ROW, LONG_ROW), strict=True):
        prompt = tokenizer.encode(instruction_prompt(source.instruction, source.input))
        response = [*tokenizer.encode(source.output), tokenizer.end_token]
        length = int(batch.lengths[row])
        assert batch.inputs[row, :length].tolist() == [*prompt, *response[:-1]]
        # The padding is the end token as well, and is not a target.
        assert set(batch.inputs[row, length:].tolist()) <= {tokenizer.end_token}
        counted = batch.targets[row] != IGNORE
        assert batch.targets[row][counted].tolist() == response
        assert counted.nonzero()[0].item() == len(prompt) - 1
        assert pair.targets == len(response)


def test_the_end_token_inside_a_response_is_learnt_too(base: Base) -> None:
    """Where a mask made by comparing with the pad token would lose it."""
    pair = encode([SHORT_ROW], base.tokenizer, CONTEXT, Alpaca()).found[0]
    batch = pad([pair, pair], base.tokenizer.end_token, torch.device("cpu"))
    assert batch.targets[0, -1] == base.tokenizer.end_token


def test_rows_that_do_not_fit_are_left_out_whole(base: Base) -> None:
    long = Instruction("Say it.", "", "dinner tomorrow " * base.config.context_length)
    encoded = encode([SHORT_ROW, long, LONG_ROW], base.tokenizer, CONTEXT, Alpaca())
    assert [row.text for row in encoded.too_long] == ["Say it."]
    assert encoded.too_long[0].tokens > 2 * CONTEXT
    assert encoded.rows == (SHORT_ROW, LONG_ROW)
    for pair in encoded.found:
        assert len(pair.tokens) <= CONTEXT
        assert pair.tokens[-1] == base.tokenizer.end_token
    exact = len(encoded.found[1].tokens)
    assert not encode([LONG_ROW], base.tokenizer, exact, Alpaca()).too_long
    assert len(encode([LONG_ROW], base.tokenizer, exact - 1, Alpaca()).too_long) == 1


def test_the_loss_is_a_mean_over_tokens_of_responses(base: Base) -> None:
    pairs = encode([SHORT_ROW, LONG_ROW], base.tokenizer, CONTEXT, Alpaca()).found
    total, count = 0.0, 0
    with torch.no_grad():
        for pair in pairs:
            tokens = torch.tensor([pair.tokens])
            logits = base.model.logits(base.model(tokens[:, :-1]))[0]
            response = slice(pair.learnt.index(True) - 1, None)
            goal = tokens[0, 1:][response]
            total += F.cross_entropy(logits[response], goal, reduction="sum").item()
            count += len(goal)
    expected = total / count
    found = mean_loss(Network(base.model), pairs, base.tokenizer.end_token)
    assert found == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_are_one_batch_also_where_lengths_differ(
    base: Base, instruction_rows: list[dict[str, str]]
) -> None:
    """1 × 8 rows and 2 × 4 rows give the same gradient, the mean being over all tokens."""
    rows = [Instruction(**row) for row in instruction_rows[:8]]
    encoded = encode(rows, base.tokenizer, CONTEXT, Alpaca())
    assert len({pair.targets for pair in encoded.found}) > 1
    settings = LoopSettings(steps=1, device="cpu")
    tuned = start_tuning(base, "full", LoRASettings(), None, settings)
    task = InstructionTuning(tuned, encoded, encoded, settings, Alpaca())
    gradients = []
    for parts in ([range(8)], [range(4), range(4, 8)]):
        batches = [task.batch(list(part)) for part in parts]
        count = sum(batch.count for batch in batches)
        tuned.trained.zero_grad()
        for batch in batches:
            (task.loss(batch) / count).backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad.clone() for p in tuned.trained.parameters() if p.grad is not None])
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_a_batch_without_targets_has_no_loss_and_is_no_nan(base: Base) -> None:
    hidden = torch.zeros(1, 3, base.config.n_embd)
    total, count = token_loss(base.model, hidden, torch.full((1, 3), IGNORE))
    assert (total.item(), count) == (0.0, 0)


def test_responses_are_the_greedy_continuations(base: Base) -> None:
    response = respond(base, None, [SHORT_ROW], Alpaca(), max_new_tokens=5)[0]
    tokens = base.tokenizer.encode(instruction_prompt(SHORT_ROW.instruction, ""))
    start = len(tokens)
    with torch.no_grad():
        for _ in range(5):
            logits = base.model.logits(base.model(torch.tensor([tokens])))[0, -1]
            tokens.append(int(logits.argmax()))
            if tokens[-1] == base.tokenizer.end_token:
                tokens.pop()
                break
    assert response.response == base.tokenizer.decode(tokens[start:]).strip()


def test_exact_leaves_case_and_spacing_aside(base: Base) -> None:
    response = respond(base, None, [SHORT_ROW], Alpaca(), max_new_tokens=1)[0]
    fields = {**vars(response), "output": "The  Bus", "response": "the bus"}
    assert type(response)(**fields).exact
    assert not type(response)(**{**fields, "response": "a bus"}).exact


@families
@pytest.mark.parametrize(
    ("method", "flags"),
    [("lora", ()), ("lora", ("--lora-targets", "q", "v", "down")), ("full", ())],
)
def test_the_card_has_what_evaluate_prints_again(
    method: str,
    flags: tuple[object, ...],
    base_path: Path,
    instruction_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    out = tmp_path / "out"
    command = ("instruct", "--base", base_path, "--data", instruction_file, "--out", out)
    code, err = cli(*command, "--method", method, *flags, *SHORT)
    assert code == 0, err
    assert is_adapter(out) == (method == "lora")
    card: dict[str, Any] = json.loads((out / "card.json").read_text())
    metrics = card["metrics"]["test"]
    assert metrics["loss"] < metrics["base_loss"]
    assert metrics["exact_match"]["n"] == metrics["n"] == card["data"]["split"]["counts"]["test"]
    responses = json.loads((tmp_path / "out.run" / "responses.json").read_text())
    assert len(responses) == metrics["n"]
    assert {"instruction", "input", "output", "response", "exact", "ended"} <= set(responses[0])
    code, err = cli("evaluate", out, "--data", instruction_file, "--json", tmp_path / "m.json")
    assert code == 0, err
    again = json.loads((tmp_path / "m.json").read_text())["metrics"]["test"]
    assert again.items() <= metrics.items()
    assert "loss" in again


def test_a_given_test_file_is_measured_by_kind(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    rows = [
        {"instruction": f"Say {word}.", "output": word, "kind": kind, "unique": kind != "c"}
        for word, kind in (("bus", "a"), ("home", "a"), ("love", "b"), ("sleep", "c"))
    ]
    test, more = tmp_path / "test.json", tmp_path / "more.json"
    test.write_text(json.dumps(rows))
    more.write_text(json.dumps([*rows[:1], {"instruction": "Say later.", "output": "later"}]))
    out = tmp_path / "out"
    command = ("instruct", "--base", base_path, "--data", instruction_file, more, "--out", out)
    code, err = cli(*command, "--repeat", 2, 3, "--test", test, *SHORT)
    assert code == 0, err
    card = json.loads((out / "card.json").read_text())
    metrics, data = card["metrics"]["test"], card["data"]
    assert metrics["n"] == data["split"]["counts"]["test"] == 4
    assert {kind: found["n"] for kind, found in metrics["kinds"].items()} == {"a": 2, "b": 1}
    for name in ("rouge_l", "ended", "second_turn"):
        assert metrics[name]["n"] == 4
        assert len(metrics[name]["interval"]) == 2
    assert data["duplicates"] == 1  # of the test and of `more`
    files = [(file["file"], file["part"], file.get("repeat")) for file in data["files"]]
    assert files == [
        ("test.json", "test", None),
        (instruction_file.name, "training and validation", 2),
        ("more.json", "training and validation", 3),
    ]


@pytest.mark.parametrize(
    ("repeat", "message"),
    [
        ((1, 2), "--repeat has 2 numbers; --data has 1"),
        ((0,), "--repeat has 0.0; it must be above"),
    ],
)
def test_repeats_that_cannot_be_are_named(
    repeat: tuple[int, ...],
    message: str,
    base_path: Path,
    instruction_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    command = ("instruct", "--base", base_path, "--data", instruction_file)
    code, err = cli(*command, "--out", tmp_path / "out", "--repeat", *repeat, *SHORT)
    assert code == 2
    assert message in err


def test_an_adapter_learns_and_its_base_stays(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    before = load_base(base_path)
    out = tmp_path / "out"
    command = ("instruct", "--base", base_path, "--data", instruction_file, "--out", out)
    assert cli(*command, *SHORT)[0] == 0
    after = load_base(base_path)
    assert after.id == before.id
    adapter = load_adapter(out, after)
    assert (adapter.task, adapter.head) == ("instruct", None)
    assert any(bool(b.abs().sum() > 0) for b in adapter.lora.b.values())


def test_samples_are_answers_to_instructions(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    command = ("instruct", "--base", base_path, "--data", instruction_file, "--out", out)
    assert cli(*command, *SHORT)[0] == 0
    without = load_file(out / "adapter.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        shown: list[list[str]] = []
        original = InstructionTuning.samples
        patch.setattr(
            InstructionTuning,
            "samples",
            lambda self: shown.append(original(self)) or shown[-1],
        )
        assert cli(*command, *SHORT, "--sample-every", 1)[0] == 0
    assert len(shown) == 3  # at the steps 0, 3 and 6
    assert all(len(texts) == 2 for texts in shown)
    assert shown[0][0].startswith("Name three animals that live in the sea. ")
    # What is shown has no effect on what is learnt.
    again = load_file(out / "adapter.safetensors")
    assert all(torch.equal(without[name], again[name]) for name in without)


def test_rows_left_out_are_reported(
    base_path: Path, instruction_rows: list[dict[str, str]], tmp_path: Path, cli: Cli
) -> None:
    long = [{**row, "output": row["output"] * 100} for row in instruction_rows[:20]]
    data = tmp_path / "a.json"
    data.write_text(json.dumps([*long, *instruction_rows[20:]]))
    out = tmp_path / "out"
    code, err = cli("instruct", "--base", base_path, "--data", data, "--out", out, *SHORT)
    assert code == 0, err
    assert "20 rows are longer than 128 tokens (--max-length), and left out" in err
    card = json.loads((out / "card.json").read_text())
    assert sum(card["data"]["too_long"].values()) == 20
