"""`penwright-train dpo`: what is compared, against what, and what is published."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import Base, is_adapter, load_adapter, load_base, save_adapter
from model.errors import UsageError
from model.lora import LoRA, LoRASettings
from model.prompts import Alpaca, instruction_prompt
from training.data.preferences import Preference
from training.loop.run import Run
from training.loop.settings import LoopSettings
from training.objectives.preferences import (
    Objective,
    PreferencePairs,
    PreferenceTuning,
    encode,
    log_probs,
)
from training.tasks.dpo import measure, start
from training.tuning.network import Network

Cli = Callable[..., tuple[int, str]]
Rows = list[dict[str, str]]
SHORT = ("--steps", 4, "--warmup", 1, "--batch-size", 4, "--eval-every", 2, "--lr", 0.01)
SHAPE = LoRASettings(rank=4, alpha=8.0)
families = pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)


@pytest.fixture
def pairs(base: Base, preference_rows: Rows) -> PreferencePairs:
    rows = [Preference(**row) for row in preference_rows[:10]]
    return encode(rows, base.tokenizer, base.config.context_length, Alpaca())


@pytest.fixture(scope="module")
def adapter_path(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instruct adapter that changes much."""
    base = load_base(base_path)
    lora = LoRA(base.config, LoRASettings(rank=3, alpha=6.0, targets=("up", "qkv")))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    path = tmp_path_factory.mktemp("adapters") / "instruct"
    save_adapter(path, base, task="instruct", lora=lora, head=None, card={})
    return path


@torch.no_grad()
def by_hand(network: Network, base: Base, row: Preference, answer: str) -> float:
    """The log-probability of one answer, token by token."""
    prompt = base.tokenizer.encode(instruction_prompt(row.instruction, row.input))
    response = [*base.tokenizer.encode(answer), base.tokenizer.end_token]
    hidden = network.hidden(torch.tensor([[*prompt, *response]]))
    table = network.model.logits(hidden)[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return sum(table[place, token].item() for place, token in zip(places, response, strict=True))


def test_a_log_probability_is_the_sum_over_the_answer_and_its_end(
    base: Base, adapter_path: Path, pairs: PreferencePairs
) -> None:
    network = Network(base.model, load_adapter(adapter_path, base).lora)
    found = log_probs(network, pairs, base.tokenizer.end_token)
    for index, row in enumerate(pairs.rows):
        chosen, rejected = (by_hand(network, base, row, a) for a in (row.chosen, row.rejected))
        assert found[0, index].item() == pytest.approx(chosen, rel=1e-5)
        assert found[1, index].item() == pytest.approx(rejected, rel=1e-5)


def test_padding_has_no_effect_on_a_log_probability(base: Base, pairs: PreferencePairs) -> None:
    end = base.tokenizer.end_token
    together = log_probs(Network(base.model), pairs, end)
    assert len({len(pair.tokens) for pair in (*pairs.chosen, *pairs.rejected)}) > 3
    for index in range(len(pairs)):
        part = slice(index, index + 1)
        alone = PreferencePairs(pairs.chosen[part], pairs.rejected[part], pairs.rows[part])
        assert torch.allclose(
            log_probs(Network(base.model), alone, end)[:, 0], together[:, index], rtol=1e-5
        )


def test_the_objective_is_that_of_the_paper() -> None:
    policy, reference = torch.tensor([-5.0, -9.0, -7.0, -6.5]), torch.tensor([-6.0, -9.5, -4.0, -7])
    # Changes of log-probability: chosen +1 and +0.5, rejected -3 and +0.5.
    objective = Objective(beta=0.2)
    chosen, rejected = objective.rewards(policy, reference)
    assert chosen.tolist() == pytest.approx([0.2, 0.1])
    assert rejected.tolist() == pytest.approx([-0.6, 0.1])
    right, even = math.log(1 + math.exp(-0.8)), math.log(2)
    assert objective.losses(policy, reference).tolist() == pytest.approx([right, even])
    smooth = replace(objective, label_smoothing=0.25).losses(policy, reference).tolist()
    assert smooth == pytest.approx([0.75 * right + 0.25 * (right + 0.8), even])


@families
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("from_adapter", [False, True])
def test_it_starts_as_the_reference_which_stays(
    method: str,
    from_adapter: bool,
    base: Base,
    adapter_path: Path,
    pairs: PreferencePairs,
    tmp_path: Path,
) -> None:
    adapter = load_adapter(adapter_path, base) if from_adapter else None
    settings = LoopSettings(steps=6, lr=0.01, batch_size=4, device="cpu")
    tuning, reference = start(base, adapter, method, None if adapter else SHAPE, settings)
    objective, end = Objective(beta=0.5), base.tokenizer.end_token
    before = log_probs(reference, pairs, end)
    alone = log_probs(Network(base.model, adapter.lora if adapter else None), pairs, end)
    assert torch.equal(before, alone)
    task = PreferenceTuning(tuning, reference, pairs, pairs, objective, settings, Alpaca())
    with torch.no_grad():
        first = task.evaluate()
    assert first["val_loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert first["val_margin"] == pytest.approx(0, abs=1e-3)
    Run(task, settings, tmp_path).train()
    assert torch.equal(log_probs(reference, pairs, end), before)
    with torch.no_grad():
        last = task.evaluate()
    assert last["val_accuracy"] == 1
    assert last["val_margin"] > 0.3
    assert last["val_loss"] < 0.65
    assert last["val_margin"] == pytest.approx(
        last["val_chosen_reward"] - last["val_rejected_reward"], rel=1e-3
    )
    # What is measured of the trained network against the reference says the same.
    found = measure(tuning.network, reference, pairs, objective, end)
    assert found["margin"] == pytest.approx(last["val_margin"], rel=1e-2)
    assert found["accuracy"]["value"] == 1
    if method == "lora":
        assert reference.model is tuning.network.model, "the base is held twice"


def test_accumulated_batches_are_one_batch(base: Base, pairs: PreferencePairs) -> None:
    """1 × 8 pairs and 2 × 4 pairs give the same gradient, the mean being over pairs."""
    settings = LoopSettings(steps=1, device="cpu")
    tuning, reference = start(base, None, "full", SHAPE, settings)
    task = PreferenceTuning(
        tuning, reference, pairs, pairs, Objective(beta=0.5), settings, Alpaca()
    )
    gradients = []
    for parts in ([range(8)], [range(4), range(4, 8)]):
        batches = [task.batch(list(part)) for part in parts]
        count = sum(batch.count for batch in batches)
        assert count == 8
        tuning.trained.zero_grad()
        for batch in batches:
            (task.loss(batch) / count).backward()  # type: ignore[no-untyped-call]
        gradients.append(
            [p.grad.clone() for p in tuning.trained.parameters() if p.grad is not None]
        )
    assert gradients[0]
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_pairs_that_do_not_fit_are_left_out_whole(base: Base) -> None:
    good = Preference("Say bus.", "", "bus", "the bus is")
    long = "dinner tomorrow " * base.config.context_length
    rows = [replace(good, chosen=long), good, replace(good, rejected=long)]
    encoded = encode(rows, base.tokenizer, base.config.context_length, Alpaca())
    assert (len(encoded.too_long), encoded.rows) == (2, (good,))
    exact = max(len(encoded.chosen[0].tokens), len(encoded.rejected[0].tokens))
    assert not encode([good], base.tokenizer, exact, Alpaca()).too_long
    assert len(encode([good], base.tokenizer, exact - 1, Alpaca()).too_long) == 1


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_published_answers_instructions(
    method: str,
    base_path: Path,
    adapter_path: Path,
    preference_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    out = tmp_path / "out"
    command = ("dpo", "--base", base_path, "--data", preference_file, "--out", out)
    code, err = cli(*command, "--adapter", adapter_path, "--method", method, *SHORT)
    assert code == 0, err
    card: dict[str, Any] = json.loads((out / "card.json").read_text())
    base = load_base(base_path)
    if method == "lora":
        adapter = load_adapter(out, base)
        assert adapter.task == "instruct"
        assert (card["lora"]["rank"], card["lora"]["alpha"]) == (3, 6.0)
        network = Network(base.model, adapter.lora)
    else:
        assert not is_adapter(out)
        assert load_base(out).task == "instruct"
        network = Network(load_base(out).model)
    assert (card["task"], card["beta"], card["label_smoothing"]) == ("dpo", 0.1, 0.0)
    assert card["adapter"]["name"] == "instruct"
    counts = card["data"]["split"]["counts"]
    assert sum(counts.values()) == card["data"]["rows"] == 80
    test = card["metrics"]["test"]
    assert test["n"] == test["accuracy"]["n"] == counts["test"]
    # The figures on the card are those of the published files against the adapter as it was.
    rows = json.loads((tmp_path / "out.run" / "responses.json").read_text())
    by_question = {row["instruction"]: row for row in json.loads(preference_file.read_text())}
    pairs = encode(
        [Preference(**by_question[row["instruction"]]) for row in rows],
        base.tokenizer,
        base.config.context_length,
        Alpaca(),
    )
    before = Network(base.model, load_adapter(adapter_path, base).lora)
    again = measure(network, before, pairs, Objective(card["beta"]), base.tokenizer.end_token)
    assert again["loss"] == pytest.approx(test["loss"], rel=1e-4)
    assert again["margin"] == pytest.approx(test["margin"], rel=1e-3)
    assert test["margin"] > 0
    for part in ("answers_before", "answers"):
        assert card["metrics"][part]["rouge_l"]["n"] == counts["test"]
    records = [
        json.loads(x) for x in (tmp_path / "out.run" / "metrics.jsonl").read_text().splitlines()
    ]
    evaluations = [record for record in records if "val_loss" in record]
    assert [record["step"] for record in evaluations] == [0, 2, 4]
    assert all({"val_accuracy", "val_margin"} <= record.keys() for record in evaluations)


@families
def test_a_resumed_run_equals_the_uninterrupted_one(
    base_path: Path,
    adapter_path: Path,
    preference_file: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = (
        "dpo",
        "--base",
        base_path,
        "--adapter",
        adapter_path,
        "--data",
        preference_file,
        *SHORT,
        "--save-every",
        2,
        "--dropout",
        0.1,
        "--schedule",
        "constant",
    )
    assert cli(*flags, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        original = PreferenceTuning.batch

        def interrupted(self: PreferenceTuning, examples: Any) -> Any:
            if interrupted.calls == 3:
                raise KeyboardInterrupt
            interrupted.calls += 1
            return original(self, examples)

        interrupted.calls = 0  # type: ignore[attr-defined]
        patch.setattr(PreferenceTuning, "batch", interrupted)
        assert cli(*flags, "--out", tmp_path / "cut")[0] == 130
    code, err = cli(*flags, "--out", tmp_path / "cut", "--resume", "--beta", 0.3)
    assert code == 2
    assert "--beta is 0.3, but the saved run has 0.1" in err
    code, err = cli(*flags, "--out", tmp_path / "cut", "--resume")
    assert code == 0, err
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_left_out_is_said(
    base_path: Path, preference_rows: Rows, tmp_path: Path, cli: Cli
) -> None:
    equal = [{**row, "rejected": row["chosen"]} for row in preference_rows[:3]]
    long = [{**row, "rejected": row["rejected"] * 100} for row in preference_rows[3:20]]
    data = tmp_path / "a.json"
    data.write_text(json.dumps([*equal, *long, *preference_rows[20:]]))
    out = tmp_path / "out"
    code, err = cli("dpo", "--base", base_path, "--data", data, "--out", out, *SHORT)
    assert code == 0, err
    assert f"3 pairs are left out, for their two answers are equal: {data}: row 1, 2, 3" in err
    assert "17 pairs are longer than 128 tokens (--max-length), and left out (--cut" in err
    card = json.loads((out / "card.json").read_text())["data"]
    assert (card["equal"], sum(card["too_long"].values())) == (3, 17)
    assert sum(card["split"]["counts"].values()) == 60


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--beta", 0), "--beta is 0.0; it must be a finite number above 0"),
        (("--beta", "nan"), "--beta is nan"),
        (("--label-smoothing", 0.5), "--label-smoothing is 0.5; it must be in [0, 0.5)"),
        (("--method", "head"), "--method is 'head'; it must be one of lora, full"),
        (("--lora-rank", 0), "--lora-rank is 0"),
        (("--adapter", "ADAPTER", "--lora-rank", 4), "--lora-rank is given, but with --adapter"),
        (("--adapter", "ADAPTER", "--lora-targets", "up"), "--lora-targets is given"),
        (("--adapter", "BASE"), "is no adapter; give a checkpoint with weights of its own"),
        (("--adapter", "ADAPTER", "--out", "ADAPTER"), "--out "),
        (("--base", "ADAPTER"), "is an adapter; give the base that it belongs to"),
        (("--resume",), "--resume: "),
    ],
)
def test_bad_flags(
    flags: tuple[object, ...],
    message: str,
    base_path: Path,
    adapter_path: Path,
    preference_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    paths = {"ADAPTER": adapter_path, "BASE": base_path}
    given = [paths.get(str(word), word) for word in flags]
    before = (adapter_path / "card.json").read_bytes()
    code, err = cli(
        *("dpo", "--base", base_path, "--data", preference_file, "--out", tmp_path / "out"),
        *(*SHORT, *given),
    )
    assert code == 2, err
    assert len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "out").exists()
    assert (adapter_path / "card.json").read_bytes() == before


def test_an_adapter_of_another_base_or_task_is_refused(
    base_path: Path, base: Base, preference_file: Path, spam_file: Path, tmp_path: Path, cli: Cli
) -> None:
    spam = tmp_path / "spam"
    few = ("--steps", 1, "--warmup", 0, "--batch-size", 4)
    code, err = cli(*("classify", "--base", base_path, "--data", spam_file, "--out", spam, *few))
    assert code == 0, err
    command = ("dpo", "--data", preference_file, "--out", tmp_path / "out", *SHORT)
    code, err = cli(*command, "--base", base_path, "--adapter", spam)
    assert code == 2
    assert "was made by classify" in err


def test_a_smoothing_that_turns_preferences_round_is_refused() -> None:
    with pytest.raises(UsageError, match="--label-smoothing"):
        Objective(0.1, label_smoothing=0.7)
