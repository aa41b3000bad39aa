"""Real workers on a small network: ours and `transformers` are compared as in a real run."""

import random
from pathlib import Path

import pytest

from benchmarks import adapters, classify, decode, gpt2, mixed
from benchmarks.agree import MOST, compare
from benchmarks.systems import OURS
from benchmarks.worker import Worker, WorkerFailed
from model.architecture import Architecture

SHAPE = Architecture(50257, 1024, n_layer=2, n_head=2, n_embd=32)


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not looked at here."""
    monkeypatch.setattr("benchmarks.worker.SETTLE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmarks")
    gpt2.prepare(path, SHAPE)
    return path


def test_decode_runs_from_end_to_end(work: Path) -> None:
    systems = (OURS, "transformers-fp32")
    outcomes, about = decode.measure(systems, work, threads=1, rounds=1, check=True)
    assert {outcome.work for outcome in outcomes} == {
        "decoding one sequence",
        "16 sequences at once",
        "16 sequences with their prompts",
        "prefill of 512 tokens",
    }
    assert all(set(outcome.rates) == set(systems) for outcome in outcomes)
    agreement = about["agreement"]
    assert isinstance(agreement, dict)
    assert agreement[OURS]["ok"]
    assert agreement[OURS]["mean"] > 0  # 8 bits are not 32


def test_another_network_does_not_agree(work: Path, tmp_path: Path) -> None:
    original = gpt2.random_weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2, "random_weights", lambda config: original(config, seed=1))
        gpt2.prepare(tmp_path, SHAPE)
    with (
        Worker("transformers-fp32", work, 1) as reference,
        Worker("transformers-fp32", tmp_path, 1) as other,
    ):
        result = compare(reference, other)
    assert result.mean > 5 * MOST
    assert not result.ok


def test_classification_agrees_with_padded_batches(work: Path) -> None:
    generator = random.Random(0)
    texts = [[generator.randrange(50256) for _ in range(n)] for n in (3, 40, 1, 17, 9)]
    with Worker(OURS, work, 1) as ours, Worker("transformers-fp32", work, 1) as peer:
        a = ours.call("classify", texts=texts, batch=2, by_length=False).value
        b = peer.call("classify", texts=texts, batch=2, by_length=False).value
        c = peer.call("classify", texts=texts, batch=2, by_length=True).value
        mix = ours.call("mixed", requests=mixed.traffic(mixed.MIX, 0.05, 0)).value
    for mine, theirs, ordered in zip(a, b, c, strict=True):
        assert mine == pytest.approx(theirs, abs=classify.CLOSE)
        assert ordered == pytest.approx(theirs, abs=1e-5)
    assert len(mix) == 3  # the labels among the texts


def test_reading_is_of_one_sequence(work: Path) -> None:
    with Worker("only reading", work, 1) as worker:
        # Of 8 bits: every matrix once, whatever is added to it to whole blocks of 64 channels.
        matrices = 2 * 12 * SHAPE.n_embd**2 + SHAPE.vocab_size * SHAPE.n_embd
        assert matrices <= worker.settings["bytes"] < 1.02 * matrices
        assert worker.call("generate", prompts=[[1]], new=2, samplings=[{}]).seconds > 0
        with pytest.raises(WorkerFailed, match="several sequences"):
            worker.call("generate", prompts=[[1], [2]], new=2, samplings=[{}, {}])


def test_a_batch_with_many_adapters(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ADAPTERS", 2), ("SEQUENCES", 5), ("PROMPT", 8), ("STEPS", 16)):
        monkeypatch.setattr(adapters, name, value)
    files = gpt2.Files(work)
    adapters.write(files)
    outcome, _ = adapters.measure(work, threads=1, rounds=1)
    assert set(outcome.rates) | set(outcome.failed) == set(adapters.KINDS)
    narrow, wide = adapters.bytes_of(files).values()
    assert 0 < narrow < wide


def test_errors_of_a_worker_are_told(work: Path) -> None:
    with Worker(OURS, work, 1) as worker:
        with pytest.raises(WorkerFailed, match="AttributeError"):
            worker.call("no_such_thing")
        with pytest.raises(WorkerFailed, match="generate failed"):
            worker.call("generate", prompts=[[1] * 1024], new=1, samplings=[{}])
        assert worker.call("greedy", prompt=[1, 2], new=3).seconds > 0  # and it lives on
    with pytest.raises(WorkerFailed, match="KeyError"):
        Worker("no-such-system", work, 1)


def test_fallback_texts_are_short_and_say_what_they_are(work: Path) -> None:
    found = classify.texts(work / "hugging-face", None)
    assert "random" in found.source
    assert max(map(len, found.tokens)) <= 100
    assert found.of_round(0, 5) != found.of_round(1, 5)
