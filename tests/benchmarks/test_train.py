"""Training loops in turns: ours and the real `Trainer`, on a small network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import report, train, training_setup
from benchmarks.rounds import Outcome
from benchmarks.systems import OURS
from benchmarks.systems.training.base import Shape, proof_of
from benchmarks.systems.training.loops import Loop
from benchmarks.systems.training.nanogpt import NanoGPT, its_name
from benchmarks.systems.training.penwright import Penwright
from model.architecture import Architecture
from model.convert.families import HF_GPT2, their_names
from model.transformer import Transformer

TINY = training_setup.SHAPES["tiny"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_setup.prepare(tmp_path_factory.mktemp("train"), TINY)


def test_ours_and_the_trainer_run_from_end_to_end(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.worker.SETTLE_SECONDS", 0.0)
    bench = train.Bench(TINY, work, threads=1, device="cpu", sources={}, ours={}, steps=1)
    outcome, about = bench.beside("Trainer", None, rounds=1, row="row")
    assert not outcome.failed
    assert set(outcome.rates) == {OURS, "Trainer"}
    assert about["proofs"]["Trainer"]["parameters"] == TINY.parameters
    assert about["settings"][OURS]["clip"] == 1.0


def test_a_turn_is_so_many_steps_of_the_real_run(work: Path) -> None:
    ours = Penwright(work, 1, shape=vars(TINY), device="cpu", precision="fp32")

    def losses() -> list[float]:
        lines = (ours.run_directory / "metrics.jsonl").read_text().splitlines()
        return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]

    assert len(losses()) == 1  # by the time that it is ready
    ours.steps(3)
    assert len(losses()) == 4
    assert losses()[0] == pytest.approx(ours.check()["loss"], rel=0.05)  # the shared weights


def test_other_weights_are_not_compared(work: Path, tmp_path: Path) -> None:
    for file in ("train.bin", "val.bin"):
        (tmp_path / file).write_bytes((work / file).read_bytes())
    weights = load_file(work / "weights.safetensors")
    weights["blocks.1.attention.qkv.weight"] = weights["blocks.1.attention.qkv.weight"] * 4
    save_file(weights, tmp_path / "weights.safetensors")
    proofs = []
    for directory in (work, tmp_path):
        system = Penwright(directory, 1, shape=vars(TINY), device="cpu", precision="fp32")
        proofs.append(system.check())
    assert training_setup.differs(proofs[0], proofs[0]) == ""
    assert "not the same network" in training_setup.differs(proofs[0], proofs[1])
    more = {**proofs[0], "parameters": proofs[0]["parameters"] + 1}
    assert "parameters" in training_setup.differs(proofs[0], more)


def test_the_proof_is_loss_and_norm_of_all_gradients() -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    proof = proof_of(network, (network(torch.tensor([[3.0, 4.0]])) - 1).sum())
    assert proof["gradient_norm"] == pytest.approx(5.0)
    assert proof["parameters"] == 2
    assert network.weight.grad is None


def test_a_loop_stops_between_its_steps_and_its_errors_are_told() -> None:
    done: list[int] = []

    def run(loop: Loop) -> None:
        for batch in loop.batches([1, 2]):
            done.append(batch)
            if len(done) == 5:
                raise ValueError("broke")

    loop = Loop(run, threads=1)
    loop.start()
    assert done == [1]
    loop.steps(3)
    assert done == [1, 2, 1, 2]
    with pytest.raises(RuntimeError, match="broke"):
        loop.steps(1)
    ended = Loop(lambda loop: None, threads=1)
    with pytest.raises(RuntimeError, match="end"):
        ended.start()


def test_a_peer_that_is_not_there_says_what_to_name(work: Path) -> None:
    with pytest.raises(ImportError, match="--nanogpt DIR"):
        NanoGPT(work, 1, shape=vars(TINY), device="cpu")


def test_nanogpt_names_its_tensors_as_hugging_face_does(work: Path) -> None:
    weights = load_file(work / "weights.safetensors")
    theirs = [f"transformer.{name}" for ours in weights for name in their_names(HF_GPT2, ours)]
    assert [its_name(name) for name in weights] == theirs


def test_the_book_has_the_same_network(work: Path) -> None:
    pytest.importorskip("llms_from_scratch", reason="the book's package is not installed")
    from benchmarks.systems.training.book import Book

    ours = Penwright(work, 1, shape=vars(TINY), device="cpu", precision="fp32")
    for fast in (False, True):
        book = Book(work, 1, shape=vars(TINY), device="cpu", fast=fast)
        assert training_setup.differs(ours.check(), book.check()) == ""


@pytest.mark.parametrize("name", training_setup.SHAPES)
def test_parameters_are_those_of_the_network(name: str) -> None:
    shape = training_setup.SHAPES[name]
    sizes = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd}
    with torch.device("meta"):
        network = Transformer(Architecture(shape.vocab_size, shape.context, **sizes))
    assert shape.parameters == network.parameter_count()


def test_utilisation_is_flops_over_the_peak() -> None:
    shape = Shape("x", 50304, 1024, n_layer=12, n_head=12, n_embd=768, batch=1)
    assert shape.flops_per_token == 6 * 123_689_472 + 12 * 12 * 768 * 1024  # without positions
    outcome = Outcome("x", "tokens/s", rates={OURS: [100_000.0]})
    share = training_setup.utilisation(outcome, shape, 1e15)[OURS]
    assert share == pytest.approx(100_000 * shape.flops_per_token / 1e15, abs=1e-4)


def test_tuned_options_are_kept_and_a_peer_that_fails_is_tried_again(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def tune(self: train.Bench, system: str) -> dict[str, Any]:
        tried.append(system)
        entry = {"failed": "not there"} if system == "book" else {"rate": 1.0}
        return {"best": {}, "tried": [{"options": {}, **entry}]}

    monkeypatch.setattr(train.Bench, "tune", tune)
    bench = train.Bench(TINY, work, threads=9, device="cpu", sources={}, ours={}, steps=1)
    for _ in range(2):
        train.chosen_options(bench, ["Trainer", "book"], again=False)
    assert tried == ["trainer", "book", "book"]


def test_every_candidate_has_the_precision_of_the_device() -> None:
    for system in training_setup.PEERS.values():
        for bf16, kinds in ((True, {"bf16", "bf16-weights"}), (False, {"fp32"})):
            found = training_setup.candidates(system, "cpu", bf16)
            assert {option["precision"] for option in found} <= kinds
            assert any(option.get("compile") for option in found)


def test_the_table_names_both_forms_of_a_peer_and_their_goals() -> None:
    outcome = Outcome("small, 8 × 512 tokens, beside book", "tokens/s")
    outcome.rates = {OURS: [30.0], "book": [10.0], "book tuned": [40.0]}
    run = {"works": [{**outcome.to_dict(OURS), "utilisation": {OURS: 0.5}}]}
    text = report.SECTIONS["train"](run)
    assert "3.00 × book (goal 1.2)" in text
    assert "0.75 × book tuned (goal 1: missed)" in text
    assert f"{OURS} 50.0%" in text
    outcome.fail("book", "not installed")
    assert "not installed" in report.SECTIONS["train"]({"works": [outcome.to_dict(OURS)]})
