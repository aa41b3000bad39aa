"""Classifiers on RMS norm, whose heads have no bias, in `transformers` and `peft`, out and in.

GPT-2's, whose bias is folded into the last layer norm, are in `test_export.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from model.checkpoint import Base, load_adapter, load_base, save_adapter, save_base
from model.classifier import ClassifierHead, Labels, last_token
from model.convert import read_hugging_face
from model.lora import LoRA, LoRASettings
from tests.parity.exported import export, new_base
from tests.parity.families import assert_close
from training.cli import main

# peft still calls transformers by a name that transformers 5 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

CLASSES = {
    "llama-groups": transformers.LlamaForSequenceClassification,
    "llama-each-its-own": transformers.LlamaForSequenceClassification,  # untied
    "qwen2-groups": transformers.Qwen2ForSequenceClassification,
    "qwen3-groups": transformers.Qwen3ForSequenceClassification,
}
LABELS = Labels(("no", "maybe", "yes"), temperature=2.5)
SPAM = Labels(("ham", "spam"), "spam", threshold=0.8, temperature=0.7)
TEXTS = ("Once upon a time, in 1984, there were 9 sheep.", "naïve café 日本語 👍🏽", "hi")


@pytest.fixture(scope="module", params=CLASSES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(name: str, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return new_base(tmp_path_factory.mktemp(name), name)[1]


@torch.no_grad()
def new_head(base: Base, labels: Labels, *, bias: bool = False) -> ClassifierHead:
    generator = torch.Generator().manual_seed(5)
    head = ClassifierHead(base.config.n_embd, labels, bias=bias).requires_grad_(False)
    for parameter in head.parameters():
        parameter.normal_(0, 1, generator=generator)
    return head.eval()


@torch.no_grad()
def new_lora(base: Base) -> LoRA:
    generator = torch.Generator().manual_seed(6)
    lora = LoRA(base.config, LoRASettings(rank=3, alpha=5.0)).requires_grad_(False)
    for parameter in lora.parameters():
        parameter.normal_(0, 0.1, generator=generator)
    return lora.eval()


def new_classifier(base: Base, out: Path, labels: Labels, *, bias: bool = False) -> Path:
    """An adapter that classifies, in fp32."""
    lora, head = new_lora(base), new_head(base, labels, bias=bias)
    save_adapter(out, base, task="classify", lora=lora, head=head, card={}, dtype=torch.float32)
    return out


@torch.no_grad()
def our_logits(base: Base, head: ClassifierHead | None, lora: LoRA | None) -> Tensor:
    """Of each of `TEXTS` by itself, calibrated: (texts, labels)."""
    assert head is not None
    rows = []
    for text in TEXTS:
        tokens = torch.tensor([base.tokenizer.encode_prompt(text)])
        hidden = base.model(tokens, adapters=lora)
        rows.append(head.calibrated(last_token(hidden, torch.tensor([tokens.shape[1]])))[0])
    return torch.stack(rows)


@torch.no_grad()
def their_logits(peer: Any, tokenizer: Any) -> Tensor:
    """Of `TEXTS` in one padded batch, (texts, labels)."""
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    assert (batch["attention_mask"] == 0).any(), "nothing is padded, so pooling is not tried"
    logits: Tensor = peer(**batch).logits
    return logits


class TestHuggingFace:
    def test_an_adapter(self, name: str, base: Base, tmp_path: Path, capsys: Any) -> None:
        """Merged: the same logits, and read back as the classifier that it was."""
        path = new_classifier(base, tmp_path / "spam", SPAM)
        out = export(path, tmp_path / "hf", "hf")
        assert "the threshold of 'spam', 0.8, is kept as a note" in capsys.readouterr().out
        peer = transformers.AutoModelForSequenceClassification.from_pretrained(out)
        assert type(peer) is CLASSES[name]
        assert peer.config.pad_token_id == base.tokenizer.special.pad
        assert peer.config.id2label == dict(enumerate(SPAM.names))
        spam = load_adapter(path, base)
        ours = our_logits(base, spam.head, spam.lora)
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        assert_close(their_logits(peer, tokenizer), ours)
        assert ours.std(0).min() > 0.01, "the texts must differ for this"
        assert main(["import", str(out), "--out", str(tmp_path / "back")]) == 0
        back = load_base(tmp_path / "back")
        assert back.task == "classify"
        assert back.head is not None
        assert not back.head.biased
        labels = back.head.labels
        assert (labels.names, labels.positive, labels.threshold) == (SPAM.names, "spam", 0.8)
        assert_close(our_logits(back, back.head, None), ours)

    def test_a_checkpoint_of_its_own(self, name: str, base: Base, tmp_path: Path) -> None:
        save_base(
            *(tmp_path / "own", base.model, base.tokenizer),
            card={},
            dtype=torch.float32,
            head=new_head(base, LABELS),
            task="classify",
        )
        own = load_base(tmp_path / "own")
        out = export(tmp_path / "own", tmp_path / "hf", "hf")
        peer = transformers.AutoModelForSequenceClassification.from_pretrained(out)
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        assert_close(their_logits(peer, tokenizer), our_logits(own, own.head, None))

    def test_a_foreign_one(self, name: str, base: Base, tmp_path: Path) -> None:
        """As `transformers` saves one that was trained with it, without our notes."""
        hf = export(base.path, tmp_path / "hf", "hf")
        peer = CLASSES[name].from_pretrained(hf, num_labels=4).eval()
        with torch.no_grad():
            peer.score.weight.normal_(0, 1, generator=torch.Generator().manual_seed(2))
        peer.save_pretrained(hf)
        found = read_hugging_face(hf)
        assert found.head is not None
        assert found.head.labels.names == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
        tokens = torch.tensor([[5, 17, 250]])
        with torch.no_grad():
            assert_close(found.head(found.model(tokens)[:, -1]), peer(tokens).logits)


class TestPeft:
    def test_out_and_in(self, base: Base, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft", reason="peft is not installed")
        on = export(base.path, tmp_path / "hf", "hf")
        path = new_classifier(base, tmp_path / "three", LABELS)
        out = export(path, tmp_path / "peft", "peft", "--base-name", str(on))
        config = json.loads((out / "adapter_config.json").read_text())
        assert config["modules_to_save"] == ["score"]
        peer = peft.AutoPeftModelForSequenceClassification.from_pretrained(out, num_labels=3)
        three = load_adapter(path, base)
        ours = our_logits(base, three.head, three.lora)
        tokenizer = transformers.AutoTokenizer.from_pretrained(on)
        assert_close(their_logits(peer.eval(), tokenizer), ours)
        words = ("--base", str(base.path), "--out", str(tmp_path / "back"))
        assert main(["import", str(out), *words]) == 0
        back = load_adapter(tmp_path / "back", base)
        assert back.head is not None
        assert not back.head.biased
        assert back.head.labels.names == LABELS.names
        assert_close(our_logits(base, back.head, back.lora), ours)


def test_a_head_with_a_bias_still_counts_it(tmp_path: Path) -> None:
    """As all heads had one once: the file says so. Nothing else of it is exported."""
    base = new_base(tmp_path, "llama-groups")[1]
    old = load_adapter(new_classifier(base, tmp_path / "old", LABELS, bias=True), base)
    wanted = new_head(base, LABELS, bias=True)
    assert old.head is not None
    assert torch.equal(old.head.score.bias, wanted.score.bias)
    assert_close(our_logits(base, old.head, None), our_logits(base, wanted, None))
    save_base(
        *(tmp_path / "own", base.model, base.tokenizer),
        card={},
        dtype=torch.float32,
        head=wanted,
        task="classify",
    )
    own = load_base(tmp_path / "own")
    assert own.head is not None
    assert torch.equal(own.head.score.bias, wanted.score.bias)
