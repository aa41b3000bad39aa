"""Small data and a small base, which the tests of training share."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.architecture import Architecture
from model.checkpoint import Base, load_base, save_base
from model.prompts import instruction_prompt
from model.rope import Rope
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from tests.training.fake_judge import FakeJudge
from training.cli import main
from training.data.vocabulary import save_tokenizer, train_tokenizer

_HAM = [
    "home",
    "dinner",
    "love",
    "meeting",
    "tomorrow",
    "bus",
    "mother",
    "sleep",
    "class",
    "later",
    "thanks",
    "morning",
]
_SPAM = [
    "win",
    "prize",
    "free",
    "cash",
    "claim",
    "urgent",
    "mobile",
    "text",
    "offer",
    "call",
    "guaranteed",
    "award",
]
_BOTH = [
    "the",
    "you",
    "to",
    "a",
    "is",
    "now",
    "for",
]


def messages(count: int, words: list[str], seed: int) -> list[str]:
    """Distinct texts of the given words."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choices(words + _BOTH, k=rng.randint(4, 12)))] = None
    return list(found)


@pytest.fixture(scope="session")
def spam_rows() -> list[tuple[str, str]]:
    """60 ham and 30 spam texts, mixed."""
    rows = [("ham", text) for text in messages(60, _HAM, 1)]
    rows += [("spam", text) for text in messages(30, _SPAM, 2)]
    random.Random(3).shuffle(rows)
    return rows


@pytest.fixture(scope="session")
def spam_file(spam_rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spam") / "spam.tsv"
    path.write_text("".join(f"{label}\t{text}\n" for label, text in spam_rows))
    return path


@pytest.fixture(scope="session")
def instruction_rows() -> list[dict[str, str]]:
    """80 questions with short answers."""
    return [
        {"instruction": f"Say {text}.", "input": text[-9:] if i % 2 else "", "output": text[:9]}
        for i, text in enumerate(messages(80, _HAM, 4))
    ]


@pytest.fixture(scope="session")
def instruction_file(
    instruction_rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("instructions") / "instructions.json"
    path.write_text(json.dumps(instruction_rows))
    return path


@pytest.fixture(scope="session")
def preference_rows(instruction_rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same questions, each with an answer that is preferred and one that is not."""
    return [
        {
            "instruction": row["instruction"],
            "input": row["input"],
            "chosen": f"please {row['output']}",
            "rejected": f"{row['output']} now {'now ' * (i % 3)}",
        }
        for i, row in enumerate(instruction_rows)
    ]


@pytest.fixture(scope="session")
def preference_file(
    preference_rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("preferences") / "preferences.json"
    path.write_text(json.dumps(preference_rows))
    return path


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    documents = [". ".join(messages(8, _HAM + _SPAM, 100 + i)) for i in range(40)]
    path.write_text("\n<|endoftext|>\n".join(documents) + "\n")
    return path


@pytest.fixture(scope="session")
def tokenizer(text_file: Path) -> Tokenizer:
    texts = [text_file.read_text(), *[instruction_prompt("Say the word.", "HOME")] * 50]
    return train_tokenizer(texts, 400)


@pytest.fixture(scope="session")
def tokenizer_file(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "own.tiktoken"
    save_tokenizer(tokenizer, path)
    return path


CHOICES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "modern": {
        "n_kv_head": 1,
        "head_dim": 32,  # 2 × 32: not the width of the network
        "mlp_width": 80,
        "norm": "rms",
        "mlp": "swiglu",
        "bias": "none",
        "qk_norm": True,
        "rope": Rope(),
    },
}


@pytest.fixture(scope="session")
def base_path(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A published base with random weights: 2 layers, 32 wide, 128 tokens of context.

    It has GPT-2's choices, or those of `CHOICES` that a test names as this fixture's parameter.
    """
    choices = CHOICES[getattr(request, "param", "gpt2")]
    shape = Architecture(tokenizer.vocab_size, 128, n_layer=2, n_head=2, n_embd=32, **choices)
    model = Transformer(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("checkpoints") / "base"
    save_base(path, model.eval(), tokenizer, card={})
    return path


@pytest.fixture
def base(base_path: Path) -> Base:
    return load_base(base_path)


Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `penwright-train` in this process: (exit code, stderr)."""

    def run(*argv: object) -> tuple[int, str]:
        capsys.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as error:  # argparse's own
            code = int(error.code or 0)
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def judge() -> Iterator[FakeJudge]:
    server = FakeJudge()
    yield server
    server.close()
