"""The checkpoint directory: what is saved comes back, and what is not whole is refused by name."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.architecture import Architecture
from model.checkpoint import (
    Adapter,
    Base,
    adapter_base_path,
    golden,
    is_adapter,
    load_adapter,
    load_base,
    save_adapter,
    save_base,
)
from model.classifier import ClassifierHead, Labels
from model.errors import CheckpointError
from model.lora import LoRA, LoRASettings
from model.tokenizer import Tokenizer
from model.transformer import Transformer

LABELS = Labels(("ham", "spam"), positive="spam", threshold=0.7, temperature=1.5)
SETTINGS = LoRASettings(rank=3, alpha=6.0, targets=("qkv", "up"))


@torch.no_grad()
def scramble(module: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.fixture
def base(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> Base:
    scramble(model)
    return save_base(tmp_path / "base", model, tokenizer, card={"note": "ü"}, dtype=torch.float32)


def new_adapter(base: Base, out: Path, **options: Any) -> Adapter:
    lora, head = LoRA(base.config, SETTINGS), ClassifierHead(base.config.n_embd, LABELS)
    scramble(lora, 1)
    scramble(head, 2)
    return save_adapter(out, base, task="classify", lora=lora, head=head, card={}, **options)


def rehash(directory: Path) -> None:
    """Make the card agree with files that a test changed: what is tested is behind the hashes."""
    path = directory / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    for name in card["files"]:
        card["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(card), encoding="utf-8")


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


class TestRoundTrip:
    def test_everything_comes_back(
        self, base: Base, model: Transformer, tokenizer: Tokenizer
    ) -> None:
        again = load_base(base.path)
        assert again.config == model.config
        assert again.tokenizer.sha256 == tokenizer.sha256
        assert again.stop_tokens == (260,)
        assert (again.task, again.head) == ("generate", None)
        assert again.card["note"] == "ü"
        assert again.id == hashlib.sha256((base.path / "card.json").read_bytes()).hexdigest()
        assert again.id == base.id
        assert not again.model.training
        for name, tensor in again.model.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name

    def test_the_same_weights_give_the_same_files(
        self, base: Base, model: Transformer, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        again = save_base(
            tmp_path / "again", model, tokenizer, card={"note": "ü"}, dtype=torch.float32
        )
        assert again.id == base.id

    def test_a_tied_head_is_stored_once(self, base: Base) -> None:
        stored = load_file(base.path / "model.safetensors")
        assert "head.weight" not in stored
        assert sum(t.numel() for t in stored.values()) == base.model.parameter_count()
        again = load_base(base.path).model
        assert again.output_weight is again.embedding.weight
        assert again.parameter_count() == base.model.parameter_count()

    def test_an_untied_head_is_said_and_kept(
        self, config: Architecture, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        model = Transformer(replace(config, tied=False))
        scramble(model)
        saved = save_base(tmp_path / "base", model, tokenizer, card={}, dtype=torch.float32)
        stored = json.loads((tmp_path / "base" / "config.json").read_text())
        assert stored["architecture"]["tied"] is False
        assert saved.model.head is not None
        assert torch.equal(saved.model.output_weight, model.output_weight)

    def test_bf16_rounds_and_says_so(
        self, model: Transformer, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        scramble(model)
        saved = save_base(tmp_path / "base", model, tokenizer, card={})
        assert json.loads((tmp_path / "base" / "config.json").read_text())["dtype"] == "bfloat16"
        stored = load_file(tmp_path / "base" / "model.safetensors")
        assert {t.dtype for t in stored.values()} == {torch.bfloat16}
        for name, tensor in saved.model.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, model.state_dict()[name].bfloat16().float()), name

    def test_weights_are_held_in_the_wanted_dtype(self, base: Base) -> None:
        held = load_base(base.path, dtype=torch.bfloat16).model
        assert {p.dtype for p in held.parameters()} == {torch.bfloat16}

    def test_a_classifier_of_its_own(
        self, model: Transformer, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        head = ClassifierHead(32, LABELS)
        scramble(head)
        out = tmp_path / "full"
        saved = save_base(
            out, model, tokenizer, card={}, dtype=torch.float32, head=head, task="classify"
        )
        assert saved.task == "classify"
        assert saved.head is not None
        assert saved.head.labels == LABELS
        assert torch.equal(saved.head.score.weight, head.score.weight)
        assert "probabilities" in saved.card["golden"][0]

    def test_nothing_but_the_four_files(self, base: Base) -> None:
        names = {file.name for file in base.path.iterdir()}
        assert names == {"config.json", "model.safetensors", "tokenizer.tiktoken", "card.json"}
        assert {file.name for file in base.path.parent.iterdir()} == {"base"}

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to write on one")
    def test_written_on_a_gpu_read_on_a_cpu(
        self, base: Base, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        model = load_base(base.path, device="cuda").model
        saved = save_base(tmp_path / "gpu", model, tokenizer, card={}, dtype=torch.float32)
        assert torch.equal(saved.model.embedding.weight, base.model.embedding.weight)
        assert saved.model.embedding.weight.device.type == "cpu"


class TestPublishing:
    def test_a_failure_leaves_the_old_one_whole(
        self, base: Base, model: Transformer, tokenizer: Tokenizer
    ) -> None:
        with pytest.raises(TypeError):
            save_base(base.path, model, tokenizer, card={"cannot be JSON": object()})
        assert load_base(base.path).id == base.id
        assert {file.name for file in base.path.parent.iterdir()} == {"base"}

    def test_the_new_one_takes_its_place(
        self, base: Base, model: Transformer, tokenizer: Tokenizer
    ) -> None:
        scramble(model, 5)
        new = save_base(base.path, model, tokenizer, card={})
        assert load_base(base.path).id == new.id != base.id


class TestRefusals:
    @pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.tiktoken"])
    def test_an_altered_byte(self, base: Base, name: str) -> None:
        path = base.path / name
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}: its SHA-256 is not"):
            load_base(base.path)

    def test_a_truncated_file(self, base: Base) -> None:
        path = base.path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: .*cut short"):
            load_base(base.path)
        rehash(base.path)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: not a usable"):
            load_base(base.path)

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "config.json", "tokenizer.tiktoken", "card.json"]
    )
    def test_a_missing_file(self, base: Base, name: str) -> None:
        (base.path / name).unlink()
        with pytest.raises(CheckpointError, match=name):
            load_base(base.path)

    def test_a_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="nowhere: no such"):
            load_base(tmp_path / "nowhere")

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', "\xff"])
    def test_a_card_that_is_none(self, base: Base, content: str) -> None:
        (base.path / "card.json").write_text(content, encoding="latin-1")
        with pytest.raises(CheckpointError, match=r"card\.json"):
            load_base(base.path)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda c: c.update(format_version=3), "format version 3; .* version 1 and 2"),
            (lambda c: c.update(format_version=1), r"unknown fields \['weights'\]"),
            (lambda c: c.pop("format_version"), "format version None"),
            (lambda c: c.update(surprise=1), r"unknown fields \['surprise'\]"),
            (lambda c: c.pop("weights"), r"missing fields \['weights'\]"),
            (lambda c: c.update(weights="../w"), r"weights is '\.\./w'"),
            (lambda c: c["architecture"].update(ropes=True), "unknown fields"),
            (lambda c: c["architecture"].update(n_layer=2000), "2,000 blocks; the weights have"),
            (lambda c: c["architecture"].update(n_embd=2**31 - 4), "parameters in 2 blocks"),
            (lambda c: c["architecture"].update(n_head=5), "n_head"),
            (lambda c: c["architecture"].update(vocab_size=100), "tokenizer has 261 tokens"),
            (lambda c: c.update(task="translate"), "translate"),
            (lambda c: c.update(template={"name": "alpaca", "version": 9}), "template"),
            (lambda c: c.update(template={"name": "chatml", "version": 1}), "template"),
            (lambda c: c["tokenizer"].update(roles={"stop": [261]}), "roles|beginning"),
            (lambda c: c.update(architecture=3), "architecture cannot be 3"),
            (lambda c: c["tokenizer"].pop("pattern"), "pattern"),
        ],
    )
    def test_a_configuration(self, base: Base, change: Any, said: str) -> None:
        change_json(base.path / "config.json", change)
        rehash(base.path)
        with pytest.raises(CheckpointError, match=said) as caught:
            load_base(base.path)
        assert str(base.path) in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda t: t.pop("blocks.1.attention_norm.bias"),
                r"no tensor blocks\.1\.attention_norm\.bias",
            ),
            (lambda t: t.update(extra=torch.zeros(1)), "unknown tensors: extra"),
            (lambda t: t.update({"norm.bias": torch.zeros(31)}), r"norm\.bias has the shape \(31,"),
        ],
    )
    def test_tensors(
        self, base: Base, change: Callable[[dict[str, Tensor]], object], said: str
    ) -> None:
        path = base.path / "model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(tensors)
        save_file(tensors, path)
        rehash(base.path)
        with pytest.raises(CheckpointError, match=said):
            load_base(base.path)


class TestAdapters:
    def test_everything_comes_back(self, base: Base, tmp_path: Path) -> None:
        saved = new_adapter(base, tmp_path / "spam", dtype=torch.float32)
        again = load_adapter(tmp_path / "spam", base)
        assert again.id == saved.id
        assert again.task == "classify"
        assert again.lora.settings == SETTINGS
        assert again.head is not None
        assert again.head.labels == LABELS
        lora, head = LoRA(base.config, SETTINGS), ClassifierHead(base.config.n_embd, LABELS)
        scramble(lora, 1)
        scramble(head, 2)
        for wanted, loaded in ((lora, again.lora), (head, again.head)):
            for name, tensor in wanted.state_dict().items():
                assert torch.equal(tensor, loaded.state_dict()[name]), name
        assert not again.lora.training

    def test_it_names_its_base_relatively(self, base: Base, tmp_path: Path) -> None:
        new_adapter(base, tmp_path / "spam")
        stored = json.loads((tmp_path / "spam" / "adapter.json").read_text())
        assert stored["base"] == {"path": "../base", "sha256": base.weights}
        (tmp_path / "moved").mkdir()
        for name in ("base", "spam"):
            (tmp_path / name).rename(tmp_path / "moved" / name)
        found = adapter_base_path(tmp_path / "moved" / "spam")
        assert found == (tmp_path / "moved" / "base").resolve()
        load_adapter(tmp_path / "moved" / "spam", load_base(found))

    def test_which_is_which(self, base: Base, tmp_path: Path) -> None:
        new_adapter(base, tmp_path / "spam")
        assert is_adapter(tmp_path / "spam")
        assert not is_adapter(base.path)

    def test_another_base_is_refused(
        self, base: Base, model: Transformer, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        new_adapter(base, tmp_path / "spam")
        scramble(model, 9)
        other = save_base(tmp_path / "other", model, tokenizer, card={})
        with pytest.raises(CheckpointError, match=rf"adapter\.json: .*{base.weights[:12]}.*other"):
            load_adapter(tmp_path / "spam", other)

    def test_an_altered_byte(self, base: Base, tmp_path: Path) -> None:
        new_adapter(base, tmp_path / "spam")
        path = tmp_path / "spam" / "adapter.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x55")
        with pytest.raises(CheckpointError, match=r"adapter\.safetensors: its SHA-256"):
            load_adapter(tmp_path / "spam", base)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda a: a.update(format_version=0), "format version 0"),
            (lambda a: a.update(surprise=1), "surprise"),
            (lambda a: a.update(rank=-1), "rank"),
            (lambda a: a.update(rank=4), "shape"),
            (lambda a: a.update(targets=["attn.q"]), r"attn\.q"),
            (lambda a: a.update(targets=["qkv"]), "unknown tensors"),
            (lambda a: a.update(threshold=2.0), "threshold"),
            (lambda a: a.update(labels=None), "unknown tensors"),
            (lambda a: a.update(labels=["x"]), "labels"),
        ],
    )
    def test_settings(self, base: Base, tmp_path: Path, change: Any, said: str) -> None:
        new_adapter(base, tmp_path / "spam")
        change_json(tmp_path / "spam" / "adapter.json", change)
        rehash(tmp_path / "spam")
        with pytest.raises(CheckpointError, match=said):
            load_adapter(tmp_path / "spam", base)


class TestGoldenOutputs:
    @staticmethod
    def check(base: Base) -> float:
        return golden.verify("base", base.card["golden"], base.model, base.tokenizer, base.head)

    def test_a_loaded_checkpoint_gives_them_again(self, base: Base) -> None:
        assert self.check(base) < 1e-4
        assert self.check(load_base(base.path, dtype=torch.bfloat16)) > 0

    def test_they_are_those_of_the_rounded_weights(
        self, model: Transformer, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        scramble(model)
        base = save_base(tmp_path / "base", model, tokenizer, card={}, dtype=torch.bfloat16)
        assert self.check(load_base(base.path)) < 1e-4

    @pytest.mark.parametrize("value", [0.5, float("nan")])
    @torch.no_grad()
    def test_other_weights_do_not_pass(self, base: Base, value: float) -> None:
        base.model.norm.bias[3] += value
        with pytest.raises(CheckpointError, match=r"base: its answer to .* differs"):
            self.check(base)

    def test_a_card_without_them_does_not_pass(self, base: Base) -> None:
        with pytest.raises(CheckpointError, match="no golden outputs"):
            golden.verify("base", [], base.model, base.tokenizer)

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            (None, "is not an object"),
            ({"input": None}, "has no input text"),
            ({"input": ""}, "has no input text"),
            ({"tokens": None}, "has no list of tokens"),
            ({"tokens": []}, "has no list of tokens"),
            ({"tokens": [0, 1, 2, 3, 10**6]}, "no ids of the vocabulary"),
            ({"tokens": [0, 1, 2, 3, -1]}, "no ids of the vocabulary"),
            ({"tokens": [0, 1, 2, 3, True]}, "no ids of the vocabulary"),
            ({"tokens": [0, 1, 2, 3, "4"]}, "no ids of the vocabulary"),
            ({"logprobs": None}, "has no list of 5 logprobs"),
            ({"logprobs": [0.5]}, "has no list of 5 logprobs"),
            ({"logprobs": [0, 0, 0, 0, "x"]}, "logprobs that are no numbers"),
            ({"logprobs": [0, 0, 0, 0, float("nan")]}, "logprobs that are no numbers"),
            ({"logprobs": [0, 0, 0, 0, 10**400]}, "logprobs that are no numbers"),
        ],
    )
    def test_a_malformed_entry_is_refused_in_words(
        self, base: Base, entry: dict[str, Any] | None, words: str
    ) -> None:
        first, second, *_ = base.card["golden"]
        expected = [first, entry if entry is None else {**second, **entry}]
        with pytest.raises(CheckpointError, match=rf"^dir: golden output 1 of its card .*{words}"):
            golden.verify("dir", expected, base.model, base.tokenizer)

    @pytest.mark.parametrize("field", ["input", "tokens", "logprobs"])
    def test_an_entry_without_a_field_is_refused(self, base: Base, field: str) -> None:
        del base.card["golden"][0][field]
        with pytest.raises(CheckpointError, match="golden output 0 of its card has no"):
            self.check(base)

    @pytest.mark.parametrize("expected", [{"x": 1}, "x", 5])
    def test_what_is_no_list_is_refused(self, base: Base, expected: object) -> None:
        with pytest.raises(CheckpointError, match="not a list"):
            golden.verify("dir", expected, base.model, base.tokenizer)

    @pytest.mark.parametrize("values", [[0.5], [0.2, 0.3, 0.5], None, ["a", "b"]])
    def test_probabilities_must_be_one_for_each_label(
        self, base: Base, tmp_path: Path, values: object
    ) -> None:
        adapter = new_adapter(base, tmp_path / "spam")
        expected = [{**adapter.card["golden"][0], "probabilities": values}]
        given = (base.model, base.tokenizer, adapter.head, adapter.lora)
        with pytest.raises(CheckpointError, match=r"spam: golden output 0 .* probabilities"):
            golden.verify("spam", expected, *given)

    def test_an_adapter_has_its_own(self, base: Base, tmp_path: Path) -> None:
        adapter = new_adapter(base, tmp_path / "spam")
        expected = adapter.card["golden"]
        given = (base.model, base.tokenizer, adapter.head)
        assert golden.verify("spam", expected, *given, adapter.lora) < 1e-4
        with pytest.raises(CheckpointError, match="spam"):
            golden.verify("spam", expected, *given, None)


@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [None], {"x": 1}], ids=repr)
def test_a_field_of_another_kind_is_refused_in_words(
    base: Base, tmp_path: Path, value: object
) -> None:
    """Whatever stands in a field, the answer is the value itself or a `CheckpointError`."""
    new_adapter(base, tmp_path / "spam")
    for path, load in (
        (base.path / "config.json", lambda: load_base(base.path)),
        (tmp_path / "spam" / "adapter.json", lambda: load_adapter(tmp_path / "spam", base)),
    ):
        before = {name: (path.parent / name).read_bytes() for name in (path.name, "card.json")}
        for field in json.loads(before[path.name]):
            change_json(path, lambda values, field=field: values.update({field: value}))
            rehash(path.parent)
            with contextlib.suppress(CheckpointError):
                load()
            for name, content in before.items():
                (path.parent / name).write_bytes(content)
