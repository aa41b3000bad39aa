"""Runs whose state was saved under the names of before there were families of networks."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.architecture import Architecture
from model.checkpoint import load_base, save_adapter
from model.errors import UsageError
from model.lora import LoRA, LoRASettings
from tests.training.loop.test_run import assert_same_state, records
from tests.training.loop.worker import Tokens, settings
from training.loop.run import Run

Cli = Callable[..., tuple[int, str]]

NAMES = {
    "embedding": "wte",
    "positions": "wpe",
    "norm": "ln_f",
    "blocks": "h",
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "attention": "attn",
    "qkv": "c_attn",
    "out": "c_proj",
    "up": "c_fc",
    "down": "c_proj",
}
ARCHITECTURE = ("vocab_size", "context_length", "n_layer", "n_head", "n_embd", "tied")
"""The fields that an architecture had."""

SHORT = ("--steps", 6, "--warmup", 1, "--batch-size", 4, "--eval-every", 3, "--lr", 0.01)
COMMANDS: dict[str, tuple[object, ...]] = {
    "pretrain": ("--preset", "tiny", "--context", 32, "--dropout", 0.1),
    "pretrain with muon": ("--preset", "tiny", "--context", 32, "--optimizer", "muon"),
    "classify": ("--dropout", 0.1, "--lm-weight", 0.5),
    "classify by the head": ("--method", "head"),
    "classify by the last block": ("--method", "last-block", "--dropout", 0.1),
    "classify by all": ("--method", "full", "--dropout", 0.1),
    "classify in folds": ("--folds", 2),
    "instruct": ("--lora-targets", "mlp.c_fc", "attn.c_attn", "--lora-rank", 3),
    "instruct by all": ("--method", "full", "--optimizer", "muon"),
    "dpo": ("--dropout", 0.1, "--schedule", "constant"),
    "dpo from an adapter": ("--adapter", "ADAPTER"),
}
STOPS_AT = {"classify in folds": 9}
"""Steps until the signal comes; those of the first fold count."""


def name_before(name: str) -> str:
    return "".join(NAMES.get(part, part) for part in re.split(r"([./])", name))


def identity_before(identity: dict[str, Any]) -> dict[str, Any]:
    old = dict(identity)
    if "architecture" in old:
        old["architecture"] = {name: old["architecture"][name] for name in ARCHITECTURE}
    if "base_card" in old:
        old["base"] = old.pop("base_card")
    if old.get("lora"):
        targets = sorted(map(name_before, old["lora"]["targets"]))
        old["lora"] = {**old["lora"], "targets": targets}
    return old


def as_before(run: Path) -> None:
    """Write all that a run has saved as it was written before."""
    for path in run.rglob("last.pt"):
        state = torch.load(path)
        del state["format"]
        state["identity"] = identity_before(state["identity"])
        state["trained"] = {name_before(name): t for name, t in state["trained"].items()}
        del state["progress"]["best_step"]
        torch.save(state, path)
    for path in run.rglob("best.pt"):
        weights = torch.load(path)["trained"]
        torch.save({name_before(name): t for name, t in weights.items()}, path)
    for path in run.rglob("result.json"):
        result = json.loads(path.read_text())
        result["identity"] = identity_before(result["identity"])
        path.write_text(json.dumps(result))


def stop_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """A real SIGTERM, while the step of that number is computed."""
    calls, original = [], Run.step

    def step(self: Run) -> dict[str, Any]:
        calls.append(self)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    patch.setattr(Run, "step", step)


@pytest.fixture(scope="module")
def adapter_path(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = load_base(base_path)
    lora = LoRA(base.config, LoRASettings(rank=3, alpha=6.0, targets=("mlp.c_proj", "attn.c_attn")))
    lora.init_weights(torch.Generator().manual_seed(5))
    path = tmp_path_factory.mktemp("adapters") / "instruct"
    save_adapter(path, base, task="instruct", lora=lora, head=None, card={})
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_goes_on_from_a_state_of_before(
    name: str,
    base_path: Path,
    adapter_path: Path,
    text_file: Path,
    tokenizer_file: Path,
    spam_file: Path,
    instruction_file: Path,
    preference_file: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = name.partition(" ")[0]
    base = ("--base", base_path, "--data")
    inputs: dict[str, tuple[object, ...]] = {
        "pretrain": ("--tokenizer", tokenizer_file, "--val-fraction", 0.2, "--data", text_file),
        "classify": (*base, spam_file),
        "instruct": (*base, instruction_file),
        "dpo": (*base, preference_file),
    }
    own = [adapter_path if word == "ADAPTER" else word for word in COMMANDS[name]]
    words = (command, *inputs[command], *SHORT, *own)
    assert cli(*words, "--out", tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        stop_at(patch, STOPS_AT.get(name, 4))
        code, err = cli(*words, "--out", tmp_path / "parts")
    assert (code, "stopped at step" in err) == (1, True), err
    as_before(tmp_path / "parts.run")
    code, err = cli(*words, "--out", tmp_path / "parts", "--resume")
    assert code == 0, err
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    [file] = [path.name for path in whole.glob("*.safetensors")]
    one, two = load_file(whole / file), load_file(parts / file)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    cards = [json.loads((path / "card.json").read_text()) for path in (whole, parts)]
    for part in ("metrics", "golden"):
        assert cards[0][part] == cards[1][part]
    runs = Path(f"{whole}.run"), Path(f"{parts}.run")
    assert_same_state(*runs, "best_step")  # which was not known
    assert records(runs[0]) == records(runs[1])


def test_adapters_stand_in_the_order_of_before() -> None:
    """Where a state of an optimizer belongs is told by its place alone, and so is what is drawn."""
    config = Architecture(50, 8, n_layer=12, n_head=2, n_embd=8)
    lora = LoRA(config, LoRASettings(rank=1, targets=("down", "qkv", "up", "out")))
    names = [name_before(name) for name in lora.state_dict()]
    assert len(names) == 12 * 4 * 2
    assert names == sorted(names)  # as `ParameterDict` sorted its keys


def test_other_settings_are_refused_as_ever(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ("instruct", "--base", base_path, "--data", instruction_file, "--out", tmp_path / "out")
    assert cli(*words, *SHORT, "--lora-targets", "up", "down")[0] == 0
    as_before(tmp_path / "out.run")
    code, err = cli(*words, *SHORT, "--lora-targets", "up", "--resume")
    assert (code, "--resume: --lora is " in err) == (2, True), err


def test_a_state_in_shards_is_refused_with_the_reason(tmp_path: Path) -> None:
    Run(Tokens(), settings(), tmp_path).train()
    path = tmp_path / "state" / "last.pt"
    state = torch.load(path)
    del state["format"], state["trained"]
    torch.save({**state, "shards": "shards-4"}, path)
    with pytest.raises(UsageError, match=r"--resume: .*last\.pt was saved in shards by an earlier"):
        Run(Tokens(), settings(), tmp_path).train(resume=True)


@pytest.mark.parametrize("base_path", ["modern"], indirect=True)
@pytest.mark.parametrize("name", ["classify by the head", "classify in folds"])
def test_a_head_goes_on_with_its_bias(
    name: str,
    base_path: Path,
    spam_file: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On RMS norm, too, heads had one once; a new one has none."""
    data = ("--base", base_path, "--data", spam_file)
    words = ("classify", *data, *SHORT, *COMMANDS[name])
    with monkeypatch.context() as patch:
        patch.setattr("training.tuning.methods.has_bias", lambda config: True)
        assert cli(*words, "--out", tmp_path / "whole")[0] == 0
        stop_at(patch, STOPS_AT.get(name, 4))
        assert cli(*words, "--out", tmp_path / "parts")[0] == 1
    for path in (tmp_path / "parts.run").rglob("last.pt"):
        state = torch.load(path)
        del state["identity"]["head_bias"]
        torch.save(state, path)
    code, err = cli(*words, "--out", tmp_path / "parts", "--resume")
    assert code == 0, err
    assert cli(*words, "--out", tmp_path / "new")[0] == 0
    whole, parts, new = (
        load_file(tmp_path / which / "adapter.safetensors") for which in ("whole", "parts", "new")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert whole.keys() == parts.keys()
    assert whole.keys() - new.keys() == {"score.bias"}
