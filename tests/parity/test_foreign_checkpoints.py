"""A model with a chat template that is not built in: imported, exported, and imported again."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import transformers

from model.checkpoint import Base, load_base, save_adapter
from model.convert import read_hugging_face
from model.convert.gguf_read import read_gguf
from model.convert.peft_read import read_peft
from model.errors import CheckpointError
from model.json_files import read_json
from model.lora import LoRA, LoRASettings
from model.prompts import JinjaTemplate, Message, encode
from tests.app.test_foreign import SPECIAL, write_directory
from tests.parity.exported import export
from training.cli import main

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + ' says:\n' + message.content | trim + eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant says:\n{% endif %}\n"
)
"""Its end-of-sequence token ends a turn, another the document."""
CONVERSATION = [
    Message("user", "the king "),
    Message("assistant", "the queen"),
    Message("user", "said"),
]


def imported(source: Path, out: Path, *flags: str) -> Base:
    assert main(["import", str(source), "--out", str(out), *flags]) == 0
    return load_base(out)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("foreign") / "theirs"
    write_directory("llama-groups", directory, TEMPLATE)
    return directory


@pytest.fixture(scope="module")
def base(directory: Path) -> Base:
    return imported(directory, directory.parent / "base", "--task", "instruct")


def assert_same_template(found: object) -> None:
    assert found == JinjaTemplate.of(TEMPLATE, SPECIAL, "<|endoftext|>", "<|im_end|>")


def test_it_is_kept_whole(base: Base, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The golden outputs of a follower of instructions are of its prompts, too."""
    assert_same_template(base.template)
    assert base.verified
    assert base.template_problem is None
    out = directory.parent / "again"
    imported(directory, out)
    assert f"{out}: conversations are written in the template jinja\n" in capsys.readouterr().out


def test_the_directory_itself_can_be_loaded(directory: Path) -> None:
    assert_same_template(load_base(directory).template)


def test_hugging_face_gets_its_text_back(base: Base, directory: Path) -> None:
    out = export(base.path, directory.parent / "hf", "hf")
    settings = read_json(out / "tokenizer_config.json")
    assert settings["chat_template"] == TEMPLATE
    assert (settings["bos_token"], settings["eos_token"]) == ("<|endoftext|>", "<|im_end|>")
    back = read_hugging_face(out)
    assert back.template == base.template
    assert back.tokenizer.special == base.tokenizer.special
    assert imported(out, directory.parent / "back").template == base.template

    peer: Any = transformers.AutoTokenizer.from_pretrained(out)
    dicts = [{"role": message.role, "content": message.text} for message in CONVERSATION]
    theirs = peer.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False)
    assert base.template is not None
    assert encode(base.template.render(CONVERSATION), base.tokenizer).ids == theirs


def test_gguf_gets_its_text_back(base: Base, directory: Path) -> None:
    out = export(base.path, directory.parent / "x.gguf", "gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(out).fields.items()}
    assert fields["tokenizer.chat_template"] == TEMPLATE
    assert SPECIAL[fields["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    back = read_gguf(out)
    assert back.template == base.template
    assert back.tokenizer.special == base.tokenizer.special
    again = imported(out, directory.parent / "from-gguf")
    assert (again.template, again.stop_tokens) == (base.template, base.stop_tokens)


@pytest.mark.parametrize("form", ["hf", "gguf"])
def test_a_model_without_a_beginning_token_gets_none(tmp_path: Path, form: str) -> None:
    write_directory("llama-groups", tmp_path / "theirs", TEMPLATE)
    path = tmp_path / "theirs" / "tokenizer_config.json"
    settings = read_json(path)
    path.write_text(json.dumps({**settings, "bos_token": None}))
    base = imported(tmp_path / "theirs", tmp_path / "base")
    assert base.template == JinjaTemplate.of(TEMPLATE, SPECIAL, None, "<|im_end|>")
    out = export(base.path, tmp_path / "out", form)
    back = read_gguf(out) if form == "gguf" else read_hugging_face(out)
    assert back.template == base.template
    assert back.tokenizer.special == base.tokenizer.special


def test_an_adapter_renders_by_the_template_of_its_base(base: Base, tmp_path: Path) -> None:
    """The very same, for each may have a process."""
    lora = LoRA(base.config, LoRASettings(2, 4.0, ("q", "v")))
    out = tmp_path / "adapter"
    saved = save_adapter(
        out, base, task="instruct", lora=lora, head=None, card={}, template=base.template
    )
    assert saved.template is base.template
    peft = export(out, tmp_path / "peft", "peft")
    assert read_peft(peft, base).template == base.template


def test_a_template_that_cannot_be_used_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_directory("llama-groups", tmp_path / "theirs", TEMPLATE + "{% if %}")
    base = imported(tmp_path / "theirs", tmp_path / "base")
    assert base.template is None
    assert (
        f"{tmp_path / 'base'}: no chat: its template cannot be used: it is no valid Jinja: line 5"
        in capsys.readouterr().out
    )
    problem = load_base(tmp_path / "theirs").template_problem
    assert problem is not None
    assert problem.startswith("it is no valid Jinja: line 5")


def test_settings_that_a_checkpoint_has_are_checked(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    values = read_json(base.path / "config.json")
    values["template"]["special_tokens"].append("<|other|>")
    template = JinjaTemplate.from_values(values["template"], f"{path}: template")
    with pytest.raises(CheckpointError, match=r"special token <\|other\|>, which the tokenizer"):
        template.check(base.tokenizer, path)
