"""A frozen base in bf16 or 8 bits: the same training, in less memory; and what is published is
measured with the base as it is served."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model import frozen
from model.architecture import Architecture
from model.checkpoint import Base, golden, load_adapter, load_base, save_base
from model.checkpoint import base as base_module
from model.errors import CheckpointError, UsageError
from model.frozen import Held, hold, widened
from model.lora import LoRASettings
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from training.loop import state as saved_state
from training.loop.settings import LoopSettings
from training.objectives.cross_entropy import token_loss
from training.tuning.methods import Method, Tuning, start_tuning

Cli = Callable[..., tuple[int, str]]
families = pytest.mark.parametrize("base_path", ["gpt2", "modern"], indirect=True)
SHORT = ("--steps", 3, "--warmup", 0, "--eval-batches", 1, "--batch-size", 4, "--lora-rank", 2)


def tuned(base: Base, held: Held, **changes: Any) -> Tuning:
    settings = LoopSettings(**{"steps": 1, "device": "cpu", "precision": "fp32", **changes})
    tuning = start_tuning(base, "lora", LoRASettings(4, 8.0), None, settings, held)
    assert tuning.network.lora is not None
    draw = torch.Generator().manual_seed(5)
    for b in tuning.network.lora.b.values():
        torch.nn.init.normal_(b, std=0.05, generator=draw)
    return tuning


def results(tuning: Tuning, *, autocast: bool) -> list[Tensor]:
    """Hidden states, the loss and the gradients of a step."""
    network = tuning.network
    tokens = torch.randint(400, (3, 20), generator=torch.Generator().manual_seed(6))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = network.hidden(tokens)
        loss, _ = token_loss(network.model, hidden, tokens)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in tuning.trained.parameters() if p.requires_grad]
    assert all(gradient is not None for gradient in gradients)
    return [hidden.detach(), loss.detach(), *(g for g in gradients if g is not None)]


def matrices(model: Transformer) -> dict[str, torch.dtype]:
    return {name: p.dtype for name, p in model.named_parameters() if p.ndim == 2}


@pytest.fixture
def untied(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """With a width that groups of 32 do not divide."""
    config = Architecture(
        tokenizer.vocab_size, 32, n_layer=2, n_head=2, n_embd=40, norm="rms", tied=False
    )
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(3))
    save_base(tmp_path / "untied", model, tokenizer, card={})
    return tmp_path / "untied"


@families
def test_bf16_is_what_autocast_makes_of_fp32_to_the_bit(base_path: Path) -> None:
    """Of weights that bf16 holds, as those of published bases are."""
    one = results(tuned(load_base(base_path), "fp32"), autocast=True)
    two = results(tuned(load_base(base_path, held="bf16"), "bf16"), autocast=True)
    assert len(one) == len(two) > 10
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@families
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("held", ["bf16", "int8"])
def test_products_are_those_with_the_widened_matrix(
    held: Held, autocast: bool, base_path: Path
) -> None:
    low = tuned(load_base(base_path), held)
    plain = load_base(base_path)
    with torch.no_grad():
        for name, module in plain.model.named_modules():
            if frozen.has_matrix(module):
                theirs: Any = low.base.model.get_submodule(name)
                module.weight.copy_(widened(theirs.weight, theirs.scale, torch.float32))  # type: ignore[operator, union-attr]
    ours, wide = (results(each, autocast=autocast) for each in (low, tuned(plain, "fp32")))
    bound = 1e-5 if not autocast else 2e-2
    for a, b in zip(ours, wide, strict=True):
        assert (a - b).norm() <= bound * b.norm()


@pytest.mark.parametrize("held", ["bf16", "int8"])
def test_blocks_of_a_large_matrix_add_up(
    held: Held, untied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = results(tuned(load_base(untied), held), autocast=False)
    monkeypatch.setattr(frozen, "_MOST", 40 * 7)
    low = tuned(load_base(untied), held)
    sizes: list[int] = []

    def watched(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        sizes.append(weight.numel())
        return widened(weight, scale, dtype)

    monkeypatch.setattr(frozen, "widened", watched)
    blocks = results(low, autocast=False)
    assert max(sizes[1:]) <= 40 * 7
    for a, b in zip(blocks, whole, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_8_bits_are_near_and_kept_as_such(untied: Path) -> None:
    exact = results(tuned(load_base(untied), "fp32"), autocast=False)
    low = tuned(load_base(untied, held="int8"), "int8")
    assert set(matrices(low.base.model).values()) == {torch.int8, torch.float32}
    wide = [name for name, dtype in matrices(low.base.model).items() if dtype == torch.float32]
    assert wide == ["positions.weight"]
    found = results(low, autocast=False)
    for a, b in zip(found, exact, strict=True):
        assert 0 < (a - b).norm() < 0.03 * b.norm()
    again = load_base(untied)
    hold(again.model, "int8")
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, low.base.model.state_dict()[name]), name


@families
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("held", ["bf16", "int8"])
def test_no_wider_copy_is_kept_for_the_backward_pass(
    held: Held, autocast: bool, base_path: Path
) -> None:
    tuning = tuned(load_base(base_path), held)
    model = tuning.base.model
    mine = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    shapes |= {shape[::-1] for shape in shapes}
    tokens = torch.randint(400, (3, 21))

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in mine:
            assert tuple(tensor.shape) not in shapes, tensor.dtype
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        token_loss(model, tuning.network.hidden(tokens), tokens)[0].backward()  # type: ignore[no-untyped-call]


@families
@pytest.mark.parametrize("held", ["bf16", "int8"])
def test_a_base_is_turned_matrix_by_matrix(
    held: Held, base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    place = frozen.place

    def watched(model: torch.nn.Module, name: str, tensor: Tensor, wanted: Held) -> None:
        left.append(sum(p.is_meta for p in model.parameters()))
        place(model, name, tensor, wanted)

    monkeypatch.setattr(base_module, "place", watched)
    model = load_base(base_path, held=held).model
    assert left == list(range(len(list(model.parameters())), 0, -1))
    assert model.dtype == torch.float32


@families
@pytest.mark.parametrize("held", ["bf16", "int8"])
def test_what_is_served_has_the_bits_of_fp32(held: Held, base_path: Path) -> None:
    tuning = tuned(load_base(base_path, held=held), held)
    tokens = torch.arange(12)[None]
    before = tuning.base.model(tokens)
    tuning.serve()
    model = load_base(base_path).model
    with torch.no_grad():
        served, plain = tuning.base.model(tokens), model(tokens)
        assert torch.equal(served, plain)
        assert torch.equal(tuning.base.model.logits(served), model.logits(plain))
    tuning.freeze()  # for the next fold
    assert torch.equal(tuning.base.model(tokens), before)


def test_a_base_that_was_replaced_is_not_served(base_path: Path, tmp_path: Path) -> None:
    base = load_base(base_path, held="bf16")
    other = load_base(base_path)
    torch.nn.init.ones_(other.model.norm.weight)
    torch.nn.init.normal_(other.model.embedding.weight)
    save_base(tmp_path / "other", other.model, other.tokenizer, card={})
    tuning = start_tuning(
        replace(base, path=tmp_path / "other"),
        *("head", LoRASettings(0), None, LoopSettings(steps=1, device="cpu"), "bf16"),
    )
    with pytest.raises(CheckpointError, match="not the base any more"):
        tuning.serve()


@families
def test_a_training_on_bf16_publishes_what_one_on_fp32_does(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ("instruct", "--base", base_path, "--data", instruction_file, *SHORT)
    cards = {}
    for name in ("fp32", "bf16", "int8"):
        out = tmp_path / name
        found = cli(*words, "--precision", "bf16", "--frozen", name, "--out", out)
        assert found[0] == 0, found[1]
        cards[name] = json.loads((out / "card.json").read_text())
        assert cards[name]["frozen"] == name
        base = load_base(base_path)
        adapter = load_adapter(out, base)
        worst = golden.verify(
            name, adapter.card["golden"], base.model, base.tokenizer, None, adapter.lora
        )
        assert worst < 1e-5
    weights = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in cards]
    assert weights[0] == weights[1] != weights[2]
    assert cards["fp32"]["metrics"] == cards["bf16"]["metrics"]
    assert cards["fp32"]["golden"] == cards["bf16"]["golden"]
    one, two = (cards[name]["metrics"]["test"] for name in ("fp32", "int8"))
    assert one["base_loss"] == two["base_loss"]


@pytest.mark.parametrize("held", ["bf16", "int8"])
@pytest.mark.parametrize("command", ["classify", "dpo"])
def test_every_task_trains_on_it(
    command: str,
    held: str,
    base_path: Path,
    spam_file: Path,
    preference_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    data = {"classify": spam_file, "dpo": preference_file}[command]
    extra = ("--folds", 2) if command == "classify" else ()
    words = (command, "--base", base_path, "--data", data, *SHORT, *extra)
    found = cli(*words, "--frozen", held, "--out", tmp_path / "out")
    assert found[0] == 0, found[1]
    base = load_base(base_path)
    adapter = load_adapter(tmp_path / "out", base)
    golden.verify(
        *("it", adapter.card["golden"], base.model, base.tokenizer, adapter.head, adapter.lora)
    )


def test_what_is_refused(base_path: Path, spam_file: Path, tmp_path: Path, cli: Cli) -> None:
    settings = LoopSettings(steps=1)
    with pytest.raises(UsageError, match="--frozen is 'int4'; it must be one of auto, fp32"):
        Method(frozen="int4").check(("lora",), settings)
    words = ("classify", "--base", base_path, "--data", spam_file, "--out", tmp_path / "out")
    for method in ("full", "last-block"):
        code, said = cli(*words, "--method", method, "--frozen", "int8")
        assert code == 2
        assert f"--frozen is int8; with --method {method} the base itself learns" in said


def test_auto_is_what_the_products_are_in() -> None:
    for precision, held in (("bf16", "bf16"), ("fp32", "fp32")):
        settings = LoopSettings(steps=1, precision=precision)
        assert Method().held(settings) == Method("head").held(settings) == held
        assert Method("full").held(settings) == "fp32"
        assert Method(frozen="int8").held(settings) == "int8"


def test_adapters_of_a_root_of_the_rank(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    settings = LoopSettings(steps=1)
    shape = Method(rank=4, scaling="sqrt-rank").adapters(settings)
    assert (shape.alpha, shape.scale) == (8.0, 4.0)
    assert Method(rank=4).adapters(settings).scale == 2.0
    with pytest.raises(UsageError, match="--lora-scaling is 'none'; it must be one of rank, sqrt"):
        Method(scaling="none").check(("lora",), settings)
    words = ("instruct", "--base", base_path, "--data", instruction_file, *SHORT)
    words = (*words, "--out", tmp_path / "out")
    assert cli(*words, "--lora-scaling", "sqrt-rank")[0] == 0
    base = load_base(base_path)
    adapter = load_adapter(tmp_path / "out", base)
    assert adapter.lora.scale == pytest.approx(8 / 2**0.5)
    assert adapter.card["lora"]["scaling"] == "sqrt-rank"
    code, said = cli(*words, "--resume")
    assert code == 2
    assert "--lora is" in said
    written = json.loads((tmp_path / "out" / "adapter.json").read_text())
    assert written["scaling"] == "sqrt-rank"
    assert cli(*words)[0] == 0
    assert "scaling" not in json.loads((tmp_path / "out" / "adapter.json").read_text())
    run = tmp_path / "out.run"
    state = saved_state.load(run)
    del state["identity"]["lora"]["scaling"]  # as before there was a choice
    saved_state.save(state, saved_state.last_state(run))
    code, said = cli(*words, "--resume")
    assert code == 0, said


def test_a_run_goes_on_as_it_began(
    base_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ("instruct", "--base", base_path, "--data", instruction_file, *SHORT)
    words = (*words, "--precision", "bf16", "--out", tmp_path / "out")
    assert cli(*words)[0] == 0
    code, said = cli(*words, "--frozen", "fp32", "--resume")
    assert code == 2
    assert "--frozen is fp32, but the saved run has bf16" in said
    run = tmp_path / "out.run"
    state = saved_state.load(run)
    del state["identity"]["frozen"]  # as before there was a choice
    saved_state.save(state, saved_state.last_state(run))
    code, said = cli(*words, "--resume")
    assert code == 0, said
    assert json.loads((tmp_path / "out" / "card.json").read_text())["frozen"] == "fp32"
