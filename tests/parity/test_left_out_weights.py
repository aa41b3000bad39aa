"""A base whose weights lie in the folder of weights: named by their SHA-256, and not held."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from model.checkpoint import Base, golden, load_adapter, load_base, save_adapter
from model.checkpoint.weights_folder import VARIABLE, weights_folder
from model.errors import CheckpointError
from model.lora import LoRA, LoRASettings
from training.cli import main

COMMAND = "make tiny"


@pytest.fixture
def folder(raw_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights, with one file."""
    folder = tmp_path / "weights"
    folder.mkdir()
    shutil.copy(raw_gguf, folder)
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def leave(folder: Path, out: Path, *more: object) -> int:
    file = folder / "tiny.gguf"
    command = ["import", file, "--leave-weights", COMMAND, "--out", out, *more]
    return main([str(word) for word in command])


@pytest.fixture
def left(folder: Path, tmp_path: Path) -> Base:
    assert leave(folder, tmp_path / "left") == 0
    return load_base(tmp_path / "left")


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_base(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def spoil(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


class TestPublishing:
    def test_the_weights_are_named_and_stay_where_they_are(self, left: Base, folder: Path) -> None:
        weights = (folder / "tiny.gguf").read_bytes()
        names = {file.name for file in left.path.iterdir()}
        assert names == {"card.json", "config.json", left.tokenizer.file_name}
        config = json.loads((left.path / "config.json").read_text())
        assert (config["weights"], config["format_version"]) == ("tiny.gguf", 2)
        assert left.card["files"]["tiny.gguf"] == hashlib.sha256(weights).hexdigest()
        assert left.card["weights_from"] == {"command": COMMAND, "bytes": len(weights)}
        assert f"--leave-weights '{COMMAND}'" in left.card["command"]

    def test_it_computes_what_the_file_does_and_is_verified(
        self, left: Base, raw_gguf: Path
    ) -> None:
        plain = load_base(raw_gguf)
        for name, tensor in plain.model.state_dict().items():
            assert torch.equal(tensor, left.model.state_dict()[name]), name
        assert left.verified
        assert golden.verify("x", left.card["golden"], plain.model, plain.tokenizer) < 1e-5

    def test_adapters_do_not_see_where_the_weights_are(
        self, left: Base, raw_gguf: Path, tmp_path: Path
    ) -> None:
        assert main(["import", str(raw_gguf), "--out", str(tmp_path / "held")]) == 0
        bases = {"left": left, "held": load_base(tmp_path / "held"), "raw": load_base(raw_gguf)}
        assert len({base.weights for base in bases.values()}) == 1
        for name, base in bases.items():
            lora = LoRA(base.config, LoRASettings(rank=2))
            lora.init_weights(torch.Generator().manual_seed(1))
            out = tmp_path / f"of-{name}"
            save_adapter(out, base, task="instruct", lora=lora.eval(), head=None, card={})
            for other in bases.values():
                load_adapter(out, other)

    def test_over_an_earlier_one(
        self, left: Base, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert leave(folder, left.path) == 0
        assert "left where it is" in capsys.readouterr().out
        assert load_base(left.path).id == left.id
        assert (folder / "tiny.gguf").is_file()

    def test_not_over_weights_that_somebody_put_beside_it(
        self, left: Base, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(folder / "tiny.gguf", left.path)
        assert leave(folder, left.path) == 2
        assert "tiny.gguf, which is no part of the checkpoint there" in capsys.readouterr().err
        assert (left.path / "tiny.gguf").is_file()

    def test_what_it_is_tuned_into_is_whole(self, left: Base, tmp_path: Path) -> None:
        """Other weights are a checkpoint's own again."""
        data = tmp_path / "data.tsv"
        data.write_text(
            "".join(f"{'ab'[i % 2]}\t{chr(97 + i // 6)} {chr(97 + i % 6)}\n" for i in range(36))
        )
        command = ["classify", "--base", left.path, "--data", data, "--out", tmp_path / "full"]
        command += ["--method", "full", "--epochs", 1, "--threads", 1]
        assert main([str(word) for word in command]) == 0
        assert (tmp_path / "full" / "model.safetensors").is_file()
        assert "weights_from" not in load_base(tmp_path / "full").card

    @pytest.mark.parametrize("kind", ["hf", "gguf"])
    def test_exports_hold_them(self, left: Base, kind: str, tmp_path: Path) -> None:
        out = tmp_path / ("out.gguf" if kind == "gguf" else "out")
        assert main(["export", str(left.path), "--format", kind, "--out", str(out)]) == 0
        again = load_base(out)
        assert torch.allclose(again.model.output_weight, left.model.output_weight)
        if kind == "hf":
            assert transformers.AutoModelForCausalLM.from_pretrained(out).num_parameters() > 0


class TestRefusals:
    """Of `--leave-weights`: one line, exit code 2, and nothing is written."""

    def refuse(
        self, source: object, out: Path, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["import", str(source), "--leave-weights", COMMAND, "--out", str(out)]
        assert main(command) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert not out.exists()

    def test_a_file_that_is_not_in_the_folder(
        self, folder: Path, raw_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "tiny.gguf").unlink()
        self.refuse(raw_gguf, tmp_path / "out", f"is not in {folder} ({VARIABLE})", capsys)

    def test_another_file_of_its_name_in_the_folder(
        self, folder: Path, raw_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        spoil(folder / "tiny.gguf")
        self.refuse(raw_gguf, tmp_path / "out", f"is not in {folder} ({VARIABLE})", capsys)

    def test_a_name_that_a_checkpoint_s_own_weights_have(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "tiny.gguf").rename(folder / "model.gguf")
        self.refuse(folder / "model.gguf", tmp_path / "out", "model.gguf", capsys)

    @pytest.mark.parametrize("command", ["", " ", "make\ntiny", "make " + "x" * 200])
    def test_a_command_that_no_error_could_show(
        self, command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["import", str(folder / "tiny.gguf"), "--leave-weights", command]
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert "--leave-weights is " in error
        assert error.count("\n") == 1

    def test_what_is_no_gguf_file(
        self, left: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert (
            main(["export", str(left.path), "--format", "hf", "--out", str(tmp_path / "hf")]) == 0
        )
        capsys.readouterr()
        self.refuse(tmp_path / "hf", tmp_path / "out", "is for a .gguf file", capsys)


class TestLookingUp:
    def test_beside_the_card_comes_first(self, left: Base, folder: Path) -> None:
        shutil.move(folder / "tiny.gguf", left.path)
        folder.rmdir()
        assert load_base(left.path).id == left.id

    def test_without_it_one_line_says_all(self, left: Base, folder: Path) -> None:
        (folder / "tiny.gguf").unlink()
        message = refused(left.path)
        for part in ("tiny.gguf", str(left.path), f"{folder} ({VARIABLE})", f"`{COMMAND}`"):
            assert part in message

    @pytest.mark.parametrize("stated", [None, {"command": 3}, {"command": "a\nb"}, "make it", {}])
    def test_a_card_that_does_not_say_what_brings_it(
        self, left: Base, folder: Path, stated: object
    ) -> None:
        (folder / "tiny.gguf").unlink()
        card = {**left.card, "weights_from": stated}
        (left.path / "card.json").write_text(json.dumps(card))
        assert refused(left.path).endswith(f"nor in {folder} ({VARIABLE})")

    def test_another_file_in_the_folder(self, left: Base, folder: Path) -> None:
        spoil(folder / "tiny.gguf")
        message = refused(left.path)
        assert message.startswith(f"{folder / 'tiny.gguf'}: ")
        assert "SHA-256" in message
        assert f"`{COMMAND}`" in message

    def test_another_file_beside_the_card(self, left: Base, folder: Path) -> None:
        """It is not passed over for the right one."""
        shutil.copy(folder / "tiny.gguf", left.path)
        spoil(left.path / "tiny.gguf")
        assert refused(left.path).startswith(f"{left.path / 'tiny.gguf'}: its SHA-256")

    def test_a_folder_that_cannot_be_read(self, left: Base, folder: Path) -> None:
        (folder / "tiny.gguf").unlink()
        (folder / "tiny.gguf").symlink_to("tiny.gguf")
        assert "cannot be read: " in refused(left.path)
        (folder / "tiny.gguf").unlink()
        (folder / "tiny.gguf").mkdir()
        assert "tiny.gguf" in refused(left.path)

    @pytest.mark.parametrize("value", [None, ""])
    def test_by_default_the_folder_is_the_users(
        self,
        left: Base,
        folder: Path,
        value: str | None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv(VARIABLE)
        if value is not None:
            monkeypatch.setenv(VARIABLE, value)
        assert weights_folder() == tmp_path / ".cache" / "penwright"
        weights_folder().parent.mkdir()
        folder.rename(weights_folder())
        assert load_base(left.path).id == left.id

    def test_a_tilde_is_the_users_home(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv(VARIABLE, "~/mine")
        assert weights_folder() == tmp_path / "mine"

    @pytest.mark.parametrize(
        "name",
        ["../weights/tiny.gguf", "/tiny.gguf", "a/tiny.gguf", "a\\tiny.gguf", ".gguf", "tiny.bin"],
    )
    def test_names_that_lead_elsewhere(self, left: Base, name: str) -> None:
        change(left.path, lambda config: config.update(weights=name))
        message = refused(left.path)
        assert "config.json: weights is" in message
        assert "model.safetensors" in message

    def test_weights_that_the_card_does_not_name(self, left: Base, folder: Path) -> None:
        shutil.copy(folder / "tiny.gguf", folder / "other.gguf")
        change(left.path, lambda config: config.update(weights="other.gguf"))
        assert refused(left.path).endswith("has no hash of other.gguf")


def change(path: Path, how: Callable[[Any], object]) -> None:
    """Change `config.json`, and let the card agree."""
    config = path / "config.json"
    values = json.loads(config.read_text())
    how(values)
    config.write_text(json.dumps(values))
    card = json.loads((path / "card.json").read_text())
    card["files"]["config.json"] = hashlib.sha256(config.read_bytes()).hexdigest()
    (path / "card.json").write_text(json.dumps(card))
