"""Models that read a token before every text, that end with one of several, or that chat."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import prompts
from model.architecture import Architecture
from model.checkpoint import Adapter, Base, load_adapter, load_base, save_base
from model.engine.request import Generate, Request
from model.prompts import Alpaca, ChatML, Message, Template
from model.rope import Rope
from model.tokenizer import Tokenizer
from model.tokenizer.special import SpecialTokens
from model.transformer import Transformer
from training.data.augment import Augmentation, Copies
from training.data.conversations import Instruction
from training.data.documents import documents
from training.data.labelled import Example
from training.data.preferences import Preference
from training.data.tokens import tokenize_files
from training.measure import answers as responses
from training.measure import samples
from training.measure.blimp import log_probabilities
from training.objectives import conversations as instruct
from training.objectives import preferences as preference
from training.objectives.labels import encode as encode_texts

Cli = Callable[..., tuple[int, str]]

ROW = Instruction("Say bus.", "NOW", "bus")
BEGIN, START, TURN = "<|begin_of_text|>", "<|im_start|>", "<|im_end|>"


@pytest.fixture(scope="module")
def beginning(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with a token before every text and one that ends turns, as Llama 3 has them."""
    ids = {**tokenizer.special_tokens, BEGIN: tokenizer.vocab_size}
    ids |= {START: tokenizer.vocab_size + 1, TURN: tokenizer.vocab_size + 2}
    special = SpecialTokens.of(ids, beginning=ids[BEGIN], adds_beginning=True)
    return Tokenizer(tokenizer.ranks, tokenizer.pattern, special)


@pytest.fixture(scope="module")
def chat_path(beginning: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has learnt conversations in ChatML."""
    shape = Architecture(beginning.vocab_size, 128, n_layer=1, n_head=2, n_embd=32, rope=Rope())
    model = Transformer(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("checkpoints") / "chat"
    save_base(path, model.eval(), beginning, card={}, task="instruct", template=ChatML())
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Base, Request]]:
    """What the engine is asked for; it answers nothing."""
    found: list[tuple[Base, Request]] = []

    def answers(
        base: Base, adapters: Mapping[str, Adapter], requests: Sequence[Request]
    ) -> list[tuple[str, str]]:
        found.extend((base, request) for request in requests)
        return [("", "length")] * len(requests)

    monkeypatch.setattr(samples, "answers", answers)
    monkeypatch.setattr(responses, "answers", answers)
    return found


def test_documents_begin_with_it(beginning: Tokenizer, text_file: Path, tmp_path: Path) -> None:
    files = tokenize_files([text_file], beginning, tmp_path, 0.2)
    begin, end = beginning.special.ids[BEGIN], beginning.end_token
    both = np.concatenate([files.train, files.val])
    count = len(list(documents(text_file.read_text())))
    assert (both == begin).sum() == (both == end).sum() == count
    assert files.train[0] == files.val[0] == begin
    assert (both[1:][both[:-1] == end] == begin).all()
    assert files.bounds == [0, len(files.train)]


def test_classified_texts_begin_with_it(beginning: Tokenizer) -> None:
    text = "win the prize"
    expected = tuple(beginning.encode_prompt(text))
    assert expected[0] == beginning.special.ids[BEGIN]
    [tokens] = encode_texts([Example("spam", text)], ("ham", "spam"), beginning, 128).tokens
    assert tokens == expected
    cut = encode_texts([Example("spam", text)], ("ham", "spam"), beginning, len(expected) - 1)
    assert (cut.truncated, cut.tokens[0]) == (1, expected[:-1])
    copies = Copies([text], Augmentation.parse([]), 1, beginning, 128)
    assert copies.tokens(0) == expected


@pytest.mark.parametrize("template", [Alpaca(), ChatML()], ids=lambda template: template.name)
def test_pairs_are_what_is_served_and_the_answer_with_its_end(
    template: Template, beginning: Tokenizer
) -> None:
    [pair] = instruct.encode([ROW], beginning, 128, template).found
    asked = prompts.encode(template.render(template.instruction("Say bus.", "NOW")), beginning).ids
    end = beginning.end_token if template == Alpaca() else beginning.special.ids[TURN]
    assert asked[0] == beginning.special.ids[BEGIN]
    assert pair.tokens == (*asked, *beginning.encode("bus"), end)
    assert pair.learnt == (*[False] * len(asked), *[True] * (len(pair.tokens) - len(asked)))
    row = Preference("Say bus.", "NOW", "bus", "the bus")
    [chosen] = preference.encode([row], beginning, 128, template).chosen
    assert chosen == pair


def test_sentences_are_measured_at_the_beginning_of_a_document(
    beginning: Tokenizer, chat_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_base(chat_path).model
    seen: list[torch.Tensor] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x: (seen.append(x), forward(x))[1])
    log_probabilities(model, beginning, ["mother is home"])
    assert seen[0][0].tolist() == beginning.encode_prompt("mother is home")[:-1]


def test_samples_begin_with_it_and_end_with_any_stop_token(
    beginning: Tokenizer, chat_path: Path, asked: list[tuple[Base, Request]]
) -> None:
    samples.continuations(load_base(chat_path).model, beginning, ["mother is"])
    [(base, request)] = asked
    assert request.tokens == tuple(beginning.encode_prompt("mother is"))
    assert set(base.stop_tokens) == {beginning.end_token, beginning.special.ids[TURN]}


def test_answers_are_asked_for_in_the_template_as_it_is_served(
    beginning: Tokenizer, chat_path: Path, asked: list[tuple[Base, Request]]
) -> None:
    base = load_base(chat_path)
    templates = (Alpaca(), ChatML())
    for template in templates:
        responses.respond(base, None, [ROW], template)
    for (_, request), template in zip(asked, templates, strict=True):
        parts = template.render([Message("user", "Say bus.", "NOW")])
        assert request.tokens == tuple(prompts.encode(parts, beginning).ids)
        assert isinstance(request.want, Generate)


def test_a_model_that_chats_is_measured_in_its_template(
    chat_path: Path,
    instruction_file: Path,
    asked: list[tuple[Base, Request]],
    tmp_path: Path,
    cli: Cli,
) -> None:
    report = tmp_path / "m.json"
    code, err = cli("evaluate", chat_path, "--data", instruction_file, "--json", report)
    assert code == 0, err
    found: dict[str, Any] = json.loads(report.read_text())["metrics"]["test"]
    tokenizer = load_base(chat_path).tokenizer
    start, turn = tokenizer.special.ids[START], tokenizer.special.ids[TURN]
    assert len(asked) == found["n"] > 0
    for _, request in asked:
        assert (request.tokens.count(start), request.tokens.count(turn)) == (2, 1)


def test_training_on_such_a_base(
    chat_path: Path,
    instruction_file: Path,
    spam_file: Path,
    text_file: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    """Its checkpoints are read again; instructions are trained in its own template."""
    short = ("--steps", 2, "--warmup", 0, "--batch-size", 4, "--base", chat_path)
    for command, data in (
        ("pretrain", text_file),
        ("classify", spam_file),
        ("instruct", instruction_file),
    ):
        out = tmp_path / command
        method = () if command == "pretrain" else ("--method", "full")
        code, err = cli(command, "--data", data, "--out", out, *short, *method)
        assert code == 0, err
        base = load_base(out)
        assert base.tokenizer.special == load_base(chat_path).tokenizer.special
        assert base.template == (ChatML() if command == "instruct" else None)


def test_the_template_is_the_base_s_own_unless_another_is_named(
    chat_path: Path, instruction_file: Path, tmp_path: Path, cli: Cli
) -> None:
    short = ("--steps", 2, "--warmup", 0, "--batch-size", 4)
    command = ("instruct", "--base", chat_path, "--data", instruction_file)
    for name, template in (("auto", ChatML()), ("alpaca", Alpaca()), ("chatml", ChatML())):
        out = tmp_path / name
        code, err = cli(*command, "--out", out, *short, "--template", name)
        assert code == 0, err
        assert load_adapter(out, load_base(chat_path)).template == template
        card = json.loads((out / "card.json").read_text())
        assert card["template"]["name"] == template.name
    code, err = cli(
        *command, "--out", tmp_path / "auto", *short, "--resume", "--template", "alpaca"
    )
    assert (code, "--resume: --template is" in err) == (2, True)
