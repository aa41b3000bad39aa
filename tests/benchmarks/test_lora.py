"""LoRA loops in turns: ours, and peft in the real `Trainer`, on a small Llama."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from benchmarks import lora, report
from benchmarks.rounds import Outcome
from benchmarks.systems import OURS
from benchmarks.systems.lora.litgpt_peer import LitGPT
from benchmarks.systems.lora.penwright import Penwright
from benchmarks.systems.training import base as training
from benchmarks.systems.training.base import Tuned
from benchmarks.training_setup import LOSS_WITHIN
from benchmarks.worker import Worker
from model.checkpoint import Base
from tests.parity.exported import new_base

TINY = Tuned("tiny", context=24, batch=2, rank=4, alpha=8.0)
ROPE = {"rope_type": "default", "rope_theta": 1e4}


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not looked at here."""
    monkeypatch.setattr("benchmarks.worker.SETTLE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    root = tmp_path_factory.mktemp("lora")
    return new_base(root, "llama-groups", rope_parameters=ROPE)[1]


@pytest.fixture(scope="module")
def work(base: Base) -> Path:
    return lora.prepare(base.path.parent, base.path)


def new_bench(work: Path, base: Base, shape: Tuned = TINY) -> lora.LoRABench:
    return lora.LoRABench(
        shape, work, threads=1, device="cpu", sources={OURS: str(base.path)}, ours={}, steps=1
    )


def ours(work: Path, base: Base, **fields: Any) -> Penwright:
    shape = {**vars(TINY), **fields}
    return Penwright(
        work, 1, shape=shape, device="cpu", source=str(base.path), targets=lora.TARGETS
    )


def assert_compared(bench: lora.LoRABench, peer: str) -> None:
    outcome, about = bench.beside(peer, {"keep_memory": True}, rounds=1, row="row")
    assert not outcome.failed
    tuned = f"{peer} tuned"
    assert set(outcome.rates) == {OURS, lora.SHARED, tuned}
    learn = {name: proof["parameters"] for name, proof in about["proofs"].items()}
    assert learn[OURS] == learn[tuned] > learn[lora.SHARED] > 0


def test_ours_and_peft_run_from_end_to_end(work: Path, base: Base) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    assert_compared(new_bench(work, base), "peft")


# peft still calls transformers by a name that transformers 5 warns about.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"weights": "bf16"},
        {"weights": "bf16", "adapters": "bf16", "attention": "eager"},
        {"weights": "bf16", "precision": "bf16"},
    ],
    ids=str,
)
def test_peft_is_held_as_its_options_say(work: Path, base: Base, options: dict[str, str]) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    from benchmarks.systems.lora.peft_peer import Peft

    peer = Peft(work, 1, shape=vars(TINY), device="cpu", **options)
    bench = new_bench(work, base)
    assert bench.differs("peft", ours(work, base).check(), peer.check()) == ""
    peer.steps(1)
    network = peer.network
    learn = {p.dtype for p in network.parameters() if p.requires_grad}
    stay = {p.dtype for p in network.parameters() if not p.requires_grad}
    in_bf16 = options.get("adapters") == "bf16"
    assert learn == {torch.bfloat16 if in_bf16 else torch.float32}
    assert stay == {torch.bfloat16}
    assert peer.settings["attention"] == options.get("attention", "sdpa")
    assert peer.settings["autocast"] == (options.get("precision") == "bf16")


def test_ours_and_litgpt_run_from_end_to_end(work: Path, base: Base) -> None:
    _needs_litgpt()
    assert_compared(new_bench(work, base), "litgpt")


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_litgpt_has_the_same_network_in_bf16(work: Path, base: Base, precision: str) -> None:
    _needs_litgpt()
    options = {"shape": vars(TINY), "device": "cpu", "precision": precision, "fused": True}
    with Worker("lora-litgpt", work, 1, **options) as peer:
        proof = peer.call("check").value
        peer.call("steps", count=1)
    assert new_bench(work, base).differs("litgpt", ours(work, base).check(), proof) == ""


def _needs_litgpt() -> None:
    if importlib.util.find_spec("litgpt") is None:
        pytest.skip("litgpt is not installed: it asks for an older huggingface-hub")


def test_litgpt_that_is_not_there_says_what_to_name(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litgpt", None)
    with pytest.raises(ImportError, match="--litgpt DIR"):
        LitGPT(work, 1, shape=vars(TINY), device="cpu")


def test_a_turn_is_so_many_steps_of_the_real_run(work: Path, base: Base) -> None:
    system = ours(work, base)

    def steps() -> list[dict[str, Any]]:
        lines = (system.run_directory / "metrics.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if "loss" in entry]

    assert len(steps()) == 1  # by the time that it is ready
    system.steps(3)
    assert len(steps()) == 4
    assert {entry["batch_tokens"] for entry in steps()} == {TINY.tokens}
    assert system.settings["held"] == ("bf16" if system.settings["autocast"] else "fp32")


def test_every_token_is_a_target(work: Path, base: Base) -> None:
    """The loss of the proof is that of `transformers` over all that follow a token."""
    inputs, targets = training.first_windows(work, TINY, torch.device("cpu"))
    peer = transformers.AutoModelForCausalLM.from_pretrained(work / "hugging-face")
    with torch.no_grad():
        logits = peer(inputs).logits.flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, targets.flatten()).item()
    assert ours(work, base).check()["loss"] == pytest.approx(loss, rel=LOSS_WITHIN)


def test_other_adapters_are_not_compared(work: Path, base: Base) -> None:
    bench = new_bench(work, base)
    proof = ours(work, base).check()
    assert bench.differs("peer", proof, ours(work, base, alpha=8.0).check()) == ""
    other_scale = ours(work, base, alpha=16.0).check()
    assert "gradient_norm" in bench.differs("peer", proof, other_scale)
    other_rank = ours(work, base, rank=8, alpha=16.0).check()
    assert "parameters" in bench.differs("peer", proof, other_rank)
    fewer = {**proof, "parameters": proof["parameters"] - 1}
    assert bench.differs(lora.SHARED, proof, fewer) == ""
    assert "loss" in bench.differs(lora.SHARED, proof, {**fewer, "loss": 1.01 * proof["loss"]})


def test_all_start_from_the_same_base_and_a_real_text(work: Path, base: Base) -> None:
    theirs = load_file(work / "hugging-face" / "model.safetensors")
    assert torch.equal(theirs["model.embed_tokens.weight"], base.model.embedding.weight)
    tokens = np.fromfile(work / "train.bin", np.uint16)
    assert len(tokens) == lora.WINDOWS * lora.SIZE.context + 1
    text = base.tokenizer.decode(tokens[:2000].tolist())
    first = min((Path(lora.__file__).parent.parent / "docs").glob("*.md"))
    assert first.read_text("utf-8").startswith(text[:500])


def test_options_are_kept_apart_by_the_size_of_a_step(work: Path, base: Base) -> None:
    assert new_bench(work, base).kept != new_bench(work, base, lora.QUICK).kept


def test_every_candidate_has_the_precision_of_the_device() -> None:
    for system in lora.PEERS.values():
        without, having = (lora.candidates(system, bf16) for bf16 in (False, True))
        assert not any("bf16" in str(value) for o in without for value in o.values())
        assert any("bf16" in str(value) for o in having for value in o.values())
        assert all(option["keep_memory"] for option in [*without, *having])
        assert len({str(option) for option in having}) == len(having)


def test_the_table_names_all_forms_and_the_options() -> None:
    outcome = Outcome("SmolLM2, 8 × 256 tokens, beside peft", "tokens/s")
    outcome.rates = {OURS: [30.0], lora.SHARED: [33.0], "peft": [10.0], "peft tuned": [40.0]}
    tuned = {"peft": {"best": {"weights": "bf16"}}}
    text = report.SECTIONS["lora"]({"works": [outcome.to_dict(OURS)], "about": {"tuned": tuned}})
    assert "| SmolLM2, 8 × 256 tokens | 30.0 | peft 10.0 | 3.00 × peft |  |" in text
    assert "peft tuned 40.0 | 0.75 × peft tuned | weights bf16 |" in text
    assert f"{lora.SHARED} 33.0 | 0.91 × {lora.SHARED} |" in text
    outcome.fail("peft", "not installed")
    run = {"works": [outcome.to_dict(OURS)], "about": {"tuned": {}}}
    assert "peft not installed" in report.SECTIONS["lora"](run)
