"""Several processes train what one trains, and none waits for one that is gone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model.architecture import Architecture
from model.checkpoint import load_base, save_base
from model.errors import PenwrightError, UsageError
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from tests.training.loop.worker import Tokens, settings
from training.loop.run import Batch, Run, Stopped

REPOSITORY = Path(__file__).parents[3]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **more}


def start(plans: list[dict[str, Any]], directory: Path, processes: int = 2) -> list[int]:
    """Make the runs in that many processes; what each of them ended with."""
    for plan, port in zip(plans, free_ports(len(plans)), strict=True):
        plan["port"] = port
        Path(plan["directory"]).mkdir(exist_ok=True)
    (directory / "plans.json").write_text(json.dumps(plans))
    command = [sys.executable, "-m", "tests.training.loop.worker", str(directory / "plans.json")]
    started = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        env = environment(**place, MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
        with (directory / f"output-{rank}").open("w") as output:
            started.append(
                subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=output, stderr=output)
            )
    try:
        for process in started:
            process.wait(timeout=550)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [process.returncode for process in started]


def said(directory: Path) -> str:
    """What the processes printed, and the errors of their runs."""
    files = [*directory.glob("output-*"), *directory.glob("*/error-*")]
    return "\n".join(f"{file}:\n{file.read_text()}" for file in sorted(files))


def losses(directory: Path) -> list[float]:
    """Of all steps and evaluations."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [r.get("loss", r.get("val_loss")) for r in map(json.loads, lines)]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(directory / "end.pt")
    return found


def assert_close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], atol: float) -> None:
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=atol, msg=name)


EQUAL: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": "auto"},
    "ddp-accumulate": {"accumulate": 3, "batch_size": 2},
    "ddp-muon": {"optimizer": "muon"},
    "fsdp": {"parallel": "fsdp"},
    "fsdp-accumulate": {"accumulate": 3, "batch_size": 2, "parallel": "fsdp"},
    "fsdp-muon": {"optimizer": "muon", "parallel": "fsdp"},
    "ddp-modern": {"accumulate": 3, "batch_size": 2},
    "fsdp-modern": {"accumulate": 3, "batch_size": 2, "parallel": "fsdp"},
    "ddp-chunks": {"checkpoint_activations": True},
    "fsdp-chunks": {"checkpoint_activations": True, "parallel": "fsdp"},
    "ddp-chunks-modern": {"accumulate": 3, "batch_size": 2},
    "fsdp-chunks-modern": {"accumulate": 3, "batch_size": 2, "parallel": "fsdp"},
}
"""What two processes do as one would."""

STOPPED: dict[str, dict[str, Any]] = {
    "stopped-ddp": {},
    "stopped-fsdp": {"parallel": "fsdp"},
    "stopped-shards": {"parallel": "fsdp", "sharded_state": True},
    "stopped-dropout": {"dropout": 0.1},
}
"""A signal stops these, and they go on."""

ONE = {"parallel": "none", "sharded_state": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all runs, made by two processes."""
    directory = tmp_path_factory.mktemp("two")
    plans = [
        {"directory": str(directory / n), "settings": c, "modern": n.endswith("modern")}
        for n, c in EQUAL.items()
    ]
    for plan in plans:
        if "chunks" in plan["directory"]:  # the loss in several, as of a large vocabulary
            plan["rows"] = 5
    plans += [{"directory": str(directory / "dropout"), "settings": {"dropout": 0.1}}]
    for name, changes in STOPPED.items():
        target, kept = str(directory / name), str(directory / f"{name}-kept")
        plans += [
            {"directory": target, "settings": changes, "event": "stop", "copy": kept},
            {"directory": target, "settings": changes, "resume": True},
        ]
    shutil.copytree(one_process_stopped(directory / "one"), directory / "grown")
    plans += [
        {"directory": str(directory / "grown"), "settings": STOPPED["stopped-fsdp"], "resume": True}
    ]
    assert start(plans, directory) == [0, 0], said(directory)
    return directory


def one_process_stopped(directory: Path) -> Path:
    """A run that one process began."""
    task = Tokens()
    batch = task.batch

    def stopping(examples: Sequence[int]) -> Batch:
        if task.batches == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(examples)

    task.batch = stopping  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        Run(task, settings(), directory).train()
    return directory


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    directory = tmp_path_factory.mktemp("one")
    task = Tokens()
    Run(task, settings(), directory).train()
    torch.save(task.trained.state_dict(), directory / "end.pt")
    return directory


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_equal_one(name: str, trained: Path, tmp_path: Path) -> None:
    """Losses, evaluations and weights, where the targets of the two are not equally many."""
    task = Tokens(modern=name.endswith("modern"))
    Run(task, settings(**{**EQUAL[name], **ONE}), tmp_path).train()
    # Muon multiplies in bf16, and a sharded matrix in another order.
    loose = 10 if name == "fsdp-muon" else 1
    assert losses(trained / name) == pytest.approx(losses(tmp_path), rel=loose * 2e-5)
    assert_close(task.trained.state_dict(), weights(trained / name), atol=loose * 2e-4)
    assert (trained / name / "code-1").read_text() == "0"


@pytest.mark.parametrize("name", [*STOPPED, "grown"])
def test_stopped_processes_go_on(name: str, trained: Path, alone: Path) -> None:
    """A signal to one of the two stops both, after the same step; resumed, they end where one
    process does that was never stopped. "grown" was begun by one process."""
    if name != "grown":
        stopped = (trained / f"{name}-kept" / "error-0").read_text()
        assert stopped == "stopped at step 3 of 4; the same command with --resume goes on"
    if name == "stopped-dropout":  # each process has random numbers of its own
        same, found = weights(trained / "dropout"), weights(trained / name)
        assert all(torch.equal(found[key], weight) for key, weight in same.items())
    else:
        assert losses(trained / name) == pytest.approx(losses(alone), rel=2e-5)
        assert_close(weights(alone), weights(trained / name), atol=2e-4)


@pytest.mark.parametrize("name", ["stopped-ddp", "stopped-fsdp", "stopped-shards"])
def test_one_process_goes_on_where_two_stopped(
    name: str, trained: Path, alone: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / f"{name}-kept", tmp_path / "run")
    state = tmp_path / "run" / "state"
    assert sorted(p.name for p in state.glob("shards-*")) == (
        ["shards-3"] if name == "stopped-shards" else []
    )
    task = Tokens()
    Run(task, settings(), tmp_path / "run").train(resume=True)
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=2e-5)
    assert_close(weights(alone), task.trained.state_dict(), atol=2e-4)
    assert not list(state.glob("shards-*"))


def test_missing_shards_are_a_clear_error(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "stopped-shards-kept", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "state" / "shards-3")
    with pytest.raises(PenwrightError, match=r"--resume: .*shards-3 cannot be read"):
        Run(Tokens(), settings(), tmp_path / "run").train(resume=True)


def test_one_bit_of_any_shard(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained / "stopped-shards-kept", run)
    shards = run / "state" / "shards-3"
    names = sorted(path.name for path in shards.iterdir())
    assert len(names) > 2
    for file in (shards / name for name in names):
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            damaged = bytearray(whole)
            damaged[place] ^= 1
            file.write_bytes(damaged)
            said = rf"damaged \(the checksum of {file.name} is another\); start again without"
            with pytest.raises(PenwrightError, match=f"--resume: {shards} cannot be .* {said}"):
                Run(Tokens(), settings(), run).train(resume=True)
        file.write_bytes(whole)
    state = torch.load(run / "state" / "last.pt")
    assert sorted(state.pop("sums")) == names
    torch.save(state, run / "state" / "last.pt")  # as before there were any
    Run(Tokens(), settings(), run).train(resume=True)


@pytest.mark.parametrize("event", ["fail", "hang"])
def test_no_process_waits_for_one_that_is_gone(event: str, tmp_path: Path) -> None:
    timeout = 5 if event == "hang" else 200
    plan = {"directory": str(tmp_path / event), "event": event, "timeout": timeout}
    began = time.monotonic()
    start([plan], tmp_path)
    assert time.monotonic() - began < 100
    error = (tmp_path / event / "error-0").read_text()
    assert error.startswith("process 0 of 2: another process failed, and says why, or did not")
    if event == "fail":
        assert (tmp_path / event / "error-1").read_text() == "process 1 of 2: row 7 is broken"


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(
        UsageError,
        match="--batch-size is 3 and --accumulate 1; with 2 processes their product must be a "
        "multiple of 2",
    ):
        settings(batch_size=3).shares(2)
    assert settings(batch_size=4, accumulate=3).shares(2) == [
        [range(4), range(4, 6)],
        [range(6, 10), range(10, 12)],
    ]
    assert settings(batch_size=4, accumulate=3).shares(1) == [[range(4), range(4, 8), range(8, 12)]]


def test_parallel_needs_processes(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="--parallel is fsdp, which is for processes that torchrun"
    ):
        Run(Tokens(), settings(parallel="fsdp"), tmp_path)
    with pytest.raises(UsageError, match="--sharded-state is for --parallel fsdp; --parallel is a"):
        settings(sharded_state=True)


def torchrun(*words: object) -> "subprocess.CompletedProcess[str]":
    """`penwright-train` with these words, in two processes."""
    run = ("torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d")
    where = ("--rdzv-endpoint", "127.0.0.1:0", "-m", "training.cli")
    return subprocess.run(
        [sys.executable, "-m", *run, *where, *map(str, words)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_torchrun_tunes_all_of_a_classifier_with_an_output_layer(
    tokenizer: Tokenizer, spam_file: Path, tmp_path: Path
) -> None:
    """No process waits for the gradient of a layer that the loss does not reach."""
    shape = Architecture(tokenizer.vocab_size, 64, n_layer=1, n_head=2, n_embd=16, tied=False)
    model = Transformer(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    base = save_base(tmp_path / "base", model, tokenizer, card={})
    words = (
        *("classify", "--base", base.path, "--data", spam_file, "--method", "full"),
        *("--batch-size", "4", "--steps", "3", "--device", "cpu", "--out", tmp_path / "out"),
    )
    done = torchrun(*words)
    assert done.returncode == 0, done.stderr
    tuned = load_base(tmp_path / "out")
    assert tuned.model.head is not None
    assert base.model.head is not None
    saved = base.model.head.weight.to(torch.bfloat16).float()
    assert torch.equal(tuned.model.head.weight, saved)


def test_torchrun_pretrains(text_file: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    """The whole command: one of the processes tokenizes, prints and publishes."""
    out = tmp_path / "base"
    words = (
        *("pretrain", "--data", text_file, "--tokenizer", tokenizer_file, "--preset", "tiny"),
        *("--context", "32", "--val-fraction", "0.2", "--batch-size", "4", "--steps", "2"),
        *("--parallel", "fsdp", "--sample-every", "2", "--device", "cpu", "--out", out),
    )
    done = torchrun(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 0: val_loss") == 1
    assert done.stdout.count(f"{out}: base ") == 1
    base = load_base(out)
    assert base.card["settings"]["parallel"] == "fsdp"
    assert (out.with_name("base.run") / "loss.png").exists()
