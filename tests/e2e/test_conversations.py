"""SmolLM2 tuned on 200 conversations of two turns answers in the manner that they have, and has
forgotten nothing that is measured."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import Base, load_adapter, load_base
from model.lora import LoRA
from model.prompts import ChatML, Message
from training.cli import main
from training.data.conversations import Instruction
from training.measure.answers import respond
from training.objectives.cross_entropy import token_loss
from training.tuning.network import Network

AGAIN = "Say that again, please."
FIRST, SECOND = "Aye! ", "As I said: "
WINDOWS, LENGTH = 16, 512
Record = Callable[[str, object], None]

pytestmark = [pytest.mark.weights, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def questions(real_data: Path) -> list[Instruction]:
    """240 short ones, each of which comes once."""
    rows = json.loads((real_data / "instructions" / "instruction-data.json").read_text())
    found: dict[str, Instruction] = {}
    for row in rows:
        asked = f"{row['instruction']}\n\n{row['input']}".strip()
        if len(asked) + len(row["output"]) < 160:
            found.setdefault(asked.lower(), Instruction(asked, "", row["output"]))
    return list(found.values())[:240]


def write(path: Path, rows: Sequence[Instruction]) -> Path:
    """Each question as a conversation, whose second answer needs the first one."""
    lines = []
    for row in rows:
        said = [row.instruction, FIRST + row.output, AGAIN, SECOND + row.output]
        roles = ("user", "assistant", "user", "assistant")
        turns = [{"role": r, "content": text} for r, text in zip(roles, said, strict=True)]
        lines.append(json.dumps({"messages": turns}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(
    smollm2_file: Path, questions: list[Instruction], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Base, LoRA]:
    work = tmp_path_factory.mktemp("conversations")
    parts = {"data": questions[:200], "val": questions[200:210], "test": questions[210:]}
    files = {name: write(work / f"{name}.jsonl", rows) for name, rows in parts.items()}
    command = ["instruct", "--base", smollm2_file, "--data", files["data"], "--val", files["val"]]
    command += ["--test", files["test"], "--out", work / "out", "--packing", "--max-length", 1024]
    command += ["--epochs", 3, "--batch-size", 1, "--lr", 4e-4, "--warmup", 5]
    command += ["--eval-every", 30, "--threads", 1, "--lora-rank", 8]
    assert main([str(word) for word in command]) == 0
    card = json.loads((work / "out" / "card.json").read_text())
    assert card["data"]["split"]["counts"] == {"train": 200, "val": 10, "test": 60}
    assert card["template"]["name"] == ChatML.name
    base = load_base(smollm2_file)
    return base, load_adapter(work / "out", base).lora


def test_it_answers_in_the_trained_manner_in_each_turn(
    tuned: tuple[Base, LoRA], questions: list[Instruction], record_property: Record
) -> None:
    base, lora = tuned
    assert base.template is not None
    asked = questions[210:]
    first = [answer.response for answer in respond(base, lora, asked, base.template)]
    later = [
        Instruction(AGAIN, "", "", earlier=(*row.messages, Message("assistant", text)))
        for row, text in zip(asked, first, strict=True)
    ]
    second = [answer.response for answer in respond(base, lora, later, base.template)]
    plain = [answer.response for answer in respond(base, None, asked, base.template)]
    repeated = sum(
        two == SECOND + one.removeprefix(FIRST) for one, two in zip(first, second, strict=True)
    )
    record_property("repeated", f"{repeated} of {len(asked)}")
    assert sum(text.startswith(FIRST) for text in first) >= 0.9 * len(asked)
    assert sum(text.startswith(SECOND) for text in second) >= 0.9 * len(asked)
    assert repeated >= 0.5 * len(asked)
    assert not any(text.startswith(FIRST) for text in plain)


@torch.no_grad()
def bits_per_byte(network: Network, base: Base, text: str) -> float:
    """Of the beginning of a text, in windows of 512 tokens."""
    tokens = np.array(base.tokenizer.encode(text)[: WINDOWS * LENGTH + 1])
    size = sum(len(base.tokenizer.token_bytes(int(token))) for token in tokens[1:])
    inputs = torch.from_numpy(tokens[:-1]).view(WINDOWS, LENGTH)
    targets = torch.from_numpy(tokens[1:]).view(WINDOWS, LENGTH)
    total = 0.0
    for x, y in zip(inputs.split(4), targets.split(4), strict=True):
        loss, _ = token_loss(network.model, network.hidden(x), y)
        total += loss.item()
    return total / math.log(2) / size


def test_it_has_forgotten_nothing(
    tuned: tuple[Base, LoRA], real_data: Path, record_property: Record
) -> None:
    base, lora = tuned
    text = (real_data / "eval" / "wikitext-2-valid.txt").read_text(encoding="utf-8")
    before = bits_per_byte(Network(base.model), base, text)
    after = bits_per_byte(Network(base.model, lora), base, text)
    record_property("bits_per_byte", [before, after])
    assert before < 1.2
    assert after < 1.05 * before
