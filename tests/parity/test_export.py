"""What `penwright-train export` writes computes in other programs what it does here, and is read
back as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from model.architecture import Architecture
from model.checkpoint import Adapter, Base, load_adapter, load_base, save_adapter, save_base
from model.classifier import ClassifierHead, Labels, last_token
from model.convert import read_hugging_face
from model.lora import LoRA, LoRASettings
from model.prompts import ChatRole, chat_prompt, instruction_prompt
from model.tokenizer import PATTERN, Tokenizer
from model.tokenizer.hugging_face import read_tokenizer
from model.transformer import Transformer
from tests.e2e.server import SCRATCH
from training.cli import main

BYTES = Tokenizer({bytes([i]): i for i in range(256)}, PATTERN, {"<|endoftext|>": 256})
"""For small networks."""
CLOSE = 1e-4
"""Of the largest logit."""
TEXTS = (
    "Once upon a time, in 1984, there were 12,345.67 sheep and 9 dogs.",
    "I'll we've he's don't I'M YOU'RE they'd 's't",
    "a\n\n\nb\t\tc \r\n  d\u00a0e\u2003f\u3000g\x85h\u2028i   ",
    "1 22 333 4444 3.14e-10 ½² Ⅷ ٣٤ 三",
    "naïve café Straße Ελληνικά русский עברית हिन्दी 日本語 👍🏽 👨‍👩‍👧 e\u0301 \ufeff",
    "def f(x: int) -> dict[str, int]:\n    return {'a': x ** 2}  # ok!!\n",
)
MESSAGES = ("Ok, see you at home then", "WIN a £1000 prize! Text WIN to 80086 now " * 4, "hi")

Export = Callable[..., Path]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Function (checkpoint, format, *flags) that exports once and returns where."""
    root = tmp_path_factory.mktemp("export")
    done: dict[tuple[str, ...], Path] = {}

    def run(checkpoint: Path, kind: str, *flags: str) -> Path:
        key = (str(checkpoint), kind, *flags)
        if key not in done:
            out = root / f"{len(done)}.{kind}"
            words = ["export", str(checkpoint), "--format", kind, "--out", str(out), *flags]
            assert main(words) == 0
            done[key] = out
        return done[key]

    return run


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(SCRATCH / "base")


@pytest.fixture(scope="module")
def spam(base: Base) -> Adapter:
    return load_adapter(SCRATCH / "spam", base)


@pytest.fixture(scope="module")
def instruct(base: Base) -> Adapter:
    return load_adapter(SCRATCH / "instruct", base)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small `base` and an adapter `instruct` on it, with random weights."""
    root = tmp_path_factory.mktemp("small")
    generator = torch.Generator().manual_seed(4)
    model = Transformer(Architecture(257, 512, n_layer=2, n_head=2, n_embd=64))
    model.init_weights(generator)
    base = save_base(root / "base", model.eval(), BYTES, card={})
    lora = LoRA(model.config, LoRASettings(rank=4)).requires_grad_(False)
    for matrix in lora.parameters():
        matrix.normal_(0, 0.2, generator=generator)
    save_adapter(root / "instruct", base, task="instruct", lora=lora, head=None, card={})
    return root


@torch.no_grad()
def our_logits(base: Base, tokens: list[int], lora: LoRA | None = None) -> Tensor:
    """(time, vocab)"""
    return base.model.logits(base.model(torch.tensor([tokens]), adapters=lora))[0]


@torch.no_grad()
def our_probabilities(base: Base, head: ClassifierHead | None, lora: LoRA | None) -> Tensor:
    """Of each of `MESSAGES` by itself, (messages, labels)."""
    assert head is not None
    rows = []
    for text in MESSAGES:
        tokens = torch.tensor([base.tokenizer.encode(text)])
        hidden = base.model(tokens, adapters=lora)
        rows.append(head.probabilities(last_token(hidden, torch.tensor([tokens.shape[1]])))[0])
    return torch.stack(rows)


@torch.no_grad()
def peer_logits(peer: Any, tokens: list[int]) -> Tensor:
    """(time, vocab)"""
    logits: Tensor = peer(torch.tensor([tokens])).logits[0]
    return logits


@torch.no_grad()
def peer_probabilities(peer: Any, tokenizer: Any) -> Tensor:
    """Of `MESSAGES` in one padded batch, (messages, labels)."""
    batch = tokenizer(list(MESSAGES), padding=True, return_tensors="pt")
    assert (batch["attention_mask"] == 0).any(), "nothing is padded, so pooling is not tried"
    logits: Tensor = peer(**batch).logits
    return logits.softmax(-1)


def assert_close(a: Tensor, b: Tensor, share: float = CLOSE) -> None:
    assert (a - b).abs().max() <= share * b.abs().max()


def assert_same_base(one: Base, other: Base) -> None:
    assert one.config == other.config
    assert one.task == other.task
    assert one.tokenizer.sha256 == other.tokenizer.sha256
    weights = other.model.state_dict()
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft", reason="peft is not installed")


class TestLanguageModel:
    """A base, and an instruction follower merged into it, in `transformers`."""

    def test_tokens(self, export: Export, base: Base) -> None:
        theirs = transformers.AutoTokenizer.from_pretrained(export(SCRATCH / "base", "hf"))
        for text in TEXTS:
            assert theirs(text)["input_ids"] == base.tokenizer.encode(text)
            assert theirs.decode(base.tokenizer.encode(text)) == text
        assert theirs.eos_token_id == theirs.pad_token_id == base.tokenizer.end_token
        assert theirs.model_max_length == base.config.context_length

    def test_the_pattern_is_kept(self, tmp_path: Path) -> None:
        """Digits stay apart although a token would join them: their own class for GPT-2's
        tokenizer would put GPT-2's pattern in the place of ours."""
        ranks = {**BYTES.ranks, b"12": 256}
        tokenizer = Tokenizer(ranks, PATTERN, {"<|endoftext|>": 257})
        model = Transformer(Architecture(258, 256, 1, 2, 32))
        model.init_weights(torch.Generator())
        save_base(tmp_path / "base", model.eval(), tokenizer, card={})
        out = ["--format", "hf", "--out", str(tmp_path / "hf")]
        assert main(["export", str(tmp_path / "base"), *out]) == 0
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
        assert theirs("012 12")["input_ids"] == tokenizer.encode("012 12") == [*b"012 12"]

    def test_logits_and_greedy_text(self, export: Export, base: Base) -> None:
        peer = transformers.AutoModelForCausalLM.from_pretrained(export(SCRATCH / "base", "hf"))
        assert isinstance(peer, transformers.GPT2LMHeadModel)
        assert peer.dtype == torch.float32
        tokens = base.tokenizer.encode(TEXTS[0])
        assert_close(peer_logits(peer, tokens), our_logits(base, tokens))
        prompt = torch.tensor([tokens[:6]])
        theirs = peer.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False
        )[0].tolist()
        ours = tokens[:6]
        while len(ours) < len(theirs):
            ours.append(int(our_logits(base, ours)[-1].argmax()))
        assert ours == theirs

    def test_a_merged_adapter(self, export: Export, base: Base, instruct: Adapter) -> None:
        out = export(SCRATCH / "instruct", "hf")
        peer = transformers.AutoModelForCausalLM.from_pretrained(out)
        tokens = base.tokenizer.encode(instruction_prompt("Name a fruit.", "Sweet"))
        applied = our_logits(base, tokens, instruct.lora)
        assert_close(peer_logits(peer, tokens), applied)
        assert (applied - our_logits(base, tokens)).abs().max() > 100 * CLOSE * applied.abs().max()

    def test_the_chat_template(self, export: Export) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(export(SCRATCH / "instruct", "hf"))
        said = "Say 'it\\'s' in {{ two }} words.\nNow."
        assert tokenizer.apply_chat_template(
            [{"role": "user", "content": said}], tokenize=False
        ) == instruction_prompt(said)
        turns: list[tuple[ChatRole, str]] = [
            ("system", "Be brief."),
            ("user", "One"),
            ("assistant", "Two"),
            ("user", said),
        ]
        assert tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in turns], tokenize=False
        ) == chat_prompt(turns)

    def test_an_untied_head(self, tmp_path: Path, capsys: Any) -> None:
        model = Transformer(Architecture(257, 256, 1, 2, 32, tied=False))
        model.init_weights(torch.Generator().manual_seed(3))
        save_base(tmp_path / "untied", model.eval(), BYTES, card={}, dtype=torch.float32)
        untied = load_base(tmp_path / "untied")
        for kind in ("hf", "gguf"):
            words = ("--format", kind, "--out", str(tmp_path / f"out.{kind}"))
            assert main(["export", str(tmp_path / "untied"), *words]) == 0
            assert "untied head" in capsys.readouterr().out
            back = ("import", str(tmp_path / f"out.{kind}"), "--out", str(tmp_path / kind))
            assert main([*back]) == 0
            assert_same_base(load_base(tmp_path / kind), untied)
        peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out.hf")
        assert_close(peer_logits(peer, [1, 2, 3]), our_logits(untied, [1, 2, 3]))


class TestClassifier:
    def test_probabilities(self, export: Export, base: Base, spam: Adapter) -> None:
        out = export(SCRATCH / "spam", "hf")
        peer = transformers.AutoModelForSequenceClassification.from_pretrained(out)
        assert isinstance(peer, transformers.GPT2ForSequenceClassification)
        assert spam.head is not None
        assert tuple(peer.config.id2label.values()) == spam.head.labels.names
        theirs = peer_probabilities(peer, transformers.AutoTokenizer.from_pretrained(out))
        ours = our_probabilities(base, spam.head, spam.lora)
        assert (theirs - ours).abs().max() < 1e-5
        assert ours[:, 0].max() - ours[:, 0].min() > 0.5, "the messages must differ for this"

    def test_the_round_trip(
        self, export: Export, base: Base, spam: Adapter, tmp_path: Path
    ) -> None:
        out = export(SCRATCH / "spam", "hf")
        assert main(["import", str(out), "--out", str(tmp_path / "spam")]) == 0
        back = load_base(tmp_path / "spam")
        assert back.task == "classify"
        assert back.head is not None
        assert spam.head is not None
        assert back.head.labels.threshold == spam.head.labels.threshold
        assert back.head.labels.positive == spam.head.labels.positive
        ours = our_probabilities(base, spam.head, spam.lora)
        assert (our_probabilities(back, back.head, None) - ours).abs().max() < 1e-5

    def test_four_labels_of_a_checkpoint_of_its_own(self, tmp_path: Path) -> None:
        """With a large bias and a temperature far from 1."""
        generator = torch.Generator().manual_seed(5)
        model = Transformer(Architecture(257, 256, 1, 2, 32))
        model.init_weights(generator)
        head = ClassifierHead(32, Labels(("a", "b", "c", "d"), temperature=3.5)).requires_grad_(
            False
        )
        head.score.weight.normal_(0, 0.3, generator=generator)
        head.score.bias.normal_(0, 2, generator=generator)
        path = tmp_path / "own"
        save_base(path, model.eval(), BYTES, card={}, head=head, task="classify")
        words = ["export", str(path), "--format", "hf", "--out", str(tmp_path / "hf")]
        assert main(words) == 0
        own = load_base(path)
        peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
        theirs = peer_probabilities(
            peer, transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
        )
        # The same weights with an untouched layer norm would be far off.
        assert (theirs - our_probabilities(own, own.head, None)).abs().max() < 1e-5

    def test_labels_of_a_foreign_classifier(self, write_hf: Any, tmp_path: Path) -> None:
        """As `transformers` saves one that was trained with it, without our notes."""
        write_hf(tmp_path / "hf", n_layer=1, n_embd=32)
        config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
        config.id2label = {0: "no", 1: "maybe", 2: "yes"}
        config.pad_token_id = 299
        peer = transformers.GPT2ForSequenceClassification.from_pretrained(
            tmp_path / "hf", config=config
        ).eval()
        peer.save_pretrained(tmp_path / "hf")
        imported = read_hugging_face(tmp_path / "hf")
        assert imported.head is not None
        assert imported.head.labels.names == ("no", "maybe", "yes")
        tokens = torch.tensor([[5, 17, 250]])
        with torch.no_grad():
            ours = imported.head(imported.model(tokens)[:, -1])
            assert_close(ours, peer(tokens).logits)


# peft still calls transformers by a name that transformers 5 warns about.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
class TestPeft:
    def test_a_language_model(
        self, peft: Any, export: Export, base: Base, instruct: Adapter
    ) -> None:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(export(SCRATCH / "base", "hf"))
        peer = peft.PeftModel.from_pretrained(theirs, export(SCRATCH / "instruct", "peft"))
        tokens = base.tokenizer.encode(instruction_prompt("Name a fruit."))
        assert_close(peer_logits(peer.eval(), tokens), our_logits(base, tokens, instruct.lora))

    def test_a_classifier_that_finds_its_base(
        self, peft: Any, export: Export, base: Base, spam: Adapter
    ) -> None:
        on = export(SCRATCH / "base", "hf")
        out = export(SCRATCH / "spam", "peft", "--base-name", str(on))
        peer = peft.AutoPeftModelForSequenceClassification.from_pretrained(out).eval()
        theirs = peer_probabilities(peer, transformers.AutoTokenizer.from_pretrained(on))
        ours = our_probabilities(base, spam.head, spam.lora)
        assert (theirs - ours).abs().max() < 1e-5

    @pytest.mark.parametrize("name", ["instruct", "spam"])
    def test_the_round_trip(self, export: Export, base: Base, tmp_path: Path, name: str) -> None:
        before = load_adapter(SCRATCH / name, base)
        out = export(SCRATCH / name, "peft")
        words = ["import", str(out), "--base", str(SCRATCH / "base"), "--out", str(tmp_path / name)]
        assert main(words) == 0
        after = load_adapter(tmp_path / name, base)
        assert after.task == before.task
        matrices = after.lora.state_dict()
        for key, tensor in before.lora.state_dict().items():
            assert torch.equal(tensor, matrices[key])
        if before.head is not None:
            assert after.head is not None
            assert after.head.labels.threshold == before.head.labels.threshold
            ours = our_probabilities(base, before.head, before.lora)
            assert (our_probabilities(base, after.head, after.lora) - ours).abs().max() < 1e-5

    def test_an_adapter_of_another_base(self, small: Path, tmp_path: Path, capsys: Any) -> None:
        model = Transformer(Architecture(257, 256, 1, 2, 32))
        model.init_weights(torch.Generator().manual_seed(1))
        save_base(tmp_path / "other", model.eval(), BYTES, card={})
        hf = str(tmp_path / "hf")
        assert main(["export", str(tmp_path / "other"), "--format", "hf", "--out", hf]) == 0
        words = ["--format", "peft", "--base-name", hf, "--out", str(tmp_path / "peft")]
        assert main(["export", str(small / "instruct"), *words]) == 1
        error = capsys.readouterr().err
        assert "--base-name" in error
        assert "is not the base" in error
        assert not (tmp_path / "peft").exists()

    @pytest.mark.parametrize(
        ("field", "value"), [("use_dora", 3), ("bias", "all"), ("peft_type", "IA3"), ("r", 0)]
    )
    def test_refusals(
        self, export: Export, small: Path, tmp_path: Path, capsys: Any, field: str, value: object
    ) -> None:
        source = export(small / "instruct", "peft")
        config = json.loads((source / "adapter_config.json").read_text())
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "adapter_config.json").write_text(json.dumps({**config, field: value}))
        weights = (source / "adapter_model.safetensors").read_bytes()
        (tmp_path / "in" / "adapter_model.safetensors").write_bytes(weights)
        words = ["--base", str(small / "base"), "--out", str(tmp_path / "out")]
        assert main(["import", str(tmp_path / "in"), *words]) == 1
        error = capsys.readouterr().err
        assert "adapter_config.json" in error
        assert f"{field} is {value!r}" in error


class TestRoundTrip:
    """Bit for bit, through each format that holds what is stored."""

    @pytest.mark.parametrize("flags", [("hf",), ("hf", "--dtype", "bf16")], ids="-".join)
    def test_hugging_face(self, export: Export, base: Base, tmp_path: Path, flags: Any) -> None:
        out = export(SCRATCH / "base", *flags)
        words = ["import", str(out), "--out", str(tmp_path / "base"), "--dtype", "bf16"]
        assert main(words) == 0
        assert_same_base(load_base(tmp_path / "base"), base)
        again = save_base(tmp_path / "again", base.model, base.tokenizer, card={})
        before, after = (
            (p / "model.safetensors").read_bytes() for p in (again.path, tmp_path / "base")
        )
        assert before == after

    def test_the_weights_files_of_two_exports_are_equal(
        self, export: Export, small: Path, tmp_path: Path
    ) -> None:
        first = export(small / "base", "hf")
        assert main(["import", str(first), "--out", str(tmp_path / "base")]) == 0
        out = ["--format", "hf", "--out", str(tmp_path / "again")]
        assert main(["export", str(tmp_path / "base"), *out]) == 0
        for name in ("model.safetensors", "tokenizer.json"):
            assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes()

    def test_the_task_is_kept(self, export: Export, small: Path, tmp_path: Path) -> None:
        out = export(small / "instruct", "hf", "--dtype", "bf16")
        assert main(["import", str(out), "--out", str(tmp_path / "mine")]) == 0
        assert load_base(tmp_path / "mine").task == "instruct"


class TestRefusals:
    def refuse(self, capsys: Any, code: int, *words: object) -> str:
        capsys.readouterr()
        assert main(["export", *map(str, words)]) == code
        error: str = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    @pytest.mark.parametrize(
        ("name", "words", "said"),
        [
            ("spam", ("--format", "gguf"), ("--format gguf", "classifier", "hf and peft")),
            ("base", ("--format", "peft"), ("--format peft", "no adapter", "hf and gguf")),
            ("base", ("--format", "hf", "--dtype", "q8_0"), ("--dtype q8_0", "fp32, fp16, bf16")),
            ("base", ("--format", "hf", "--base-name", "x"), ("--base-name", "peft")),
            ("base", ("--format", "hf", "--base", "x"), ("--base", "adapters")),
        ],
    )
    def test_combinations(
        self, tmp_path: Path, capsys: Any, name: str, words: Any, said: tuple[str, ...]
    ) -> None:
        error = self.refuse(capsys, 2, SCRATCH / name, *words, "--out", tmp_path / "out")
        for part in said:
            assert part in error
        assert list(tmp_path.iterdir()) == []

    def test_a_target_that_is_there(self, small: Path, tmp_path: Path, capsys: Any) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("dear")
        words = (small / "instruct", "--format", "peft", "--out", tmp_path / "out")
        assert "--force" in self.refuse(capsys, 2, *words)
        assert "not replaced" in self.refuse(capsys, 2, *words, "--force")
        (tmp_path / "out" / "thesis.txt").rename(tmp_path / "thesis.txt")
        assert main(["export", *map(str, words), "--force"]) == 0
        assert "--force" in self.refuse(capsys, 2, *words)
        assert main(["export", *map(str, words), "--force"]) == 0
        file = (small / "base", "--format", "gguf", "--force", "--out")
        assert "is no file" in self.refuse(capsys, 2, *file, tmp_path / "out")
        assert "not replaced" in self.refuse(capsys, 2, *file, tmp_path / "thesis.txt")
        assert "the checkpoint" in self.refuse(capsys, 2, *file, small / "base")

    def test_a_checkpoint_is_not_replaced(self, small: Path, tmp_path: Path, capsys: Any) -> None:
        model = Transformer(Architecture(257, 256, 1, 2, 32))
        model.init_weights(torch.Generator())
        save_base(tmp_path / "mine", model.eval(), BYTES, card={})
        words = (small / "base", "--format", "hf", "--out", tmp_path / "mine", "--force")
        assert "not replaced" in self.refuse(capsys, 2, *words)
        load_base(tmp_path / "mine")

    @pytest.mark.parametrize("kind", ["hf", "gguf", "peft"])
    def test_wrong_outputs_are_not_published(
        self, small: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        """A writer with a fault: the old export stays, and nothing else is left."""
        from model.convert import gguf_write, peft_write
        from training.commands import export

        out = tmp_path / "out"
        words = (small / "instruct", "--format", kind, "--out", out)
        assert main(["export", *map(str, words)]) == 0
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

        def turned(write: Any) -> Any:
            def broken(path: Path, whole: Base, *rest: Any) -> None:
                with torch.no_grad():
                    positions = whole.model.positions.weight
                    positions.copy_(positions.flip(0))
                write(path, whole, *rest)

            return broken

        monkeypatch.setattr(export, "write_hugging_face", turned(export.write_hugging_face))
        monkeypatch.setattr(export, "write_gguf", turned(gguf_write.write_gguf))
        names = peft_write._peft_weights
        monkeypatch.setattr(
            peft_write, "_peft_weights", lambda *of: {k: v * 2 for k, v in names(*of).items()}
        )
        error = self.refuse(capsys, 1, *words, "--force")
        assert "not written" in error
        assert "0.002" in error
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def test_a_head_whose_bias_cannot_be_folded(self, tmp_path: Path, capsys: Any) -> None:
        model = Transformer(Architecture(257, 256, 1, 2, 32))
        model.init_weights(torch.Generator())
        head = ClassifierHead(32, Labels(("a", "b"))).requires_grad_(False)
        head.score.weight.fill_(0.5)  # the labels are told apart by the bias alone
        head.score.bias.copy_(torch.tensor([1.0, 2.0]))
        path = tmp_path / "flat"
        save_base(path, model.eval(), BYTES, card={}, head=head, task="classify")
        error = self.refuse(capsys, 2, path, "--format", "hf", "--out", tmp_path / "hf")
        assert "bias" in error
        assert not (tmp_path / "hf").exists()

    def test_the_file_says_what_is_stored(self, export: Export, base: Base) -> None:
        out = export(SCRATCH / "base", "hf")
        stored = load_file(out / "model.safetensors")
        assert "lm_head.weight" not in stored
        assert sum(t.numel() for t in stored.values()) == base.model.parameter_count()
        assert read_tokenizer(out).sha256 == base.tokenizer.sha256
