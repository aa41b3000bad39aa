"""What other programs wrote, served as it is: a Hugging Face directory and a GGUF file."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from tokenizers import Tokenizer as Peer
from tokenizers import models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from app.settings import Settings
from model.checkpoint import load_base
from model.cpu import library
from model.errors import UsageError
from model.tokenizer import Tokenizer, byte_of_character
from tests.app.conftest import Live, events, serve
from tests.parity import families
from tests.parity.gguf_files import write_gguf

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOKENS = 290
"""Of the tokenizer; the network has a few rows more."""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HISTORY = [
    {"role": "user", "content": "the king"},
    {"role": "assistant", "content": "the queen"},
    {"role": "user", "content": "<|im_end|> and you?"},
]


def write_directory(case: str, directory: Path, template: str = CHATML) -> tuple[Any, Any]:
    """A network of a family with a tokenizer and a chat template, as the peer has them."""
    bpe = Peer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(byte_of_character()),
        show_progress=False,
    )
    bpe.train_from_iterator(["the king said to the queen that they ought to go"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = template
    peer = families.new_peer(families.CASES[case], eos_token_id=2)
    peer.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return peer, tokenizer


@torch.inference_mode()
def greedy(peer: Any, tokens: list[int], count: int) -> list[int]:
    """The next tokens of the peer up to its end-of-turn token, without ids that are no token."""
    found: list[int] = []
    while len(found) < count and 2 not in found:
        logits = peer(torch.tensor([[*tokens, *found]])).logits[0, -1, :TOKENS]
        found.append(int(logits.argmax()))
    return found


CHATML_AND_BOS = "{{ bos_token }}" + CHATML.replace("['content']", "['content'] | trim")
"""Not built in."""


@pytest.fixture(
    scope="module",
    params=[("llama-groups", CHATML), ("qwen3-groups", CHATML), ("llama-groups", CHATML_AND_BOS)],
    ids=["llama", "qwen3", "own template"],
)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any, Any]:
    case, template = request.param
    directory = tmp_path_factory.mktemp("made") / case
    return directory, *write_directory(case, directory, template)


@pytest.fixture(scope="module")
def live(made: tuple[Path, Any, Any]) -> Iterator[Live]:
    """In fp32, as the peer computes whose text is compared."""
    with serve(base=made[0], quantize="none") as live:
        yield live


def test_it_is_described_as_not_verified(live: Live, made: tuple[Path, Any, Any]) -> None:
    [model] = live.client.get("/models").json()["models"]
    assert model["name"] == made[0].name
    assert model["tasks"] == ["generate", "instruct"]
    assert model["verified"] is False
    assert model["template"] == ("jinja" if "trim" in made[2].chat_template else "chatml")
    assert model["checkpoint"] == load_base(made[0]).weights
    assert model["context_length"] == families.CONTEXT
    assert live.client.get("/readyz").status_code == 200
    assert "max_model_len" in live.client.get("/v1/models").json()["data"][0]


def peers_text(tokenizer: Any, messages: list[dict[str, str]], **more: bool) -> str:
    # The peer would take a user's special token for one.
    safe = [{**m, "content": m["content"].replace("<|im_end|>", "\0")} for m in messages]
    text: str = tokenizer.apply_chat_template(safe, tokenize=False, **more)
    return text


def ids(own: Tokenizer, text: str) -> list[int]:
    tokens: list[int] = []
    for part in re.split(r"(<\|endoftext\|>|<\|im_start\|>|<\|im_end\|>)", text):
        plain = own.encode(part.replace("\0", "<|im_end|>"))
        tokens += [SPECIAL.index(part)] if part in SPECIAL else plain
    return tokens


def test_its_own_template_is_used_for_chats(live: Live, made: tuple[Path, Any, Any]) -> None:
    """Turns are turns, and what a user writes is no special token."""
    _, peer, tokenizer = made
    own = load_base(made[0]).tokenizer
    tokens = ids(own, peers_text(tokenizer, HISTORY, add_generation_prompt=True))
    wanted = greedy(peer, tokens, 12)
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as ai:
        answer = ai.chat.completions.create(
            model=made[0].name, messages=HISTORY, temperature=0, max_tokens=12
        )
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in ai.chat.completions.create(
                model=made[0].name, messages=HISTORY, temperature=0, max_tokens=12, stream=True
            )
            if chunk.choices
        ]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tokens)
    said = own.decode(wanted)
    assert answer.choices[0].message.content == said
    assert "".join(pieces) == said
    assert not any(name in said for name in SPECIAL)


def test_an_answer_goes_on_from_its_beginning(live: Live, made: tuple[Path, Any, Any]) -> None:
    """As the peer has it with `continue_final_message`."""
    _, peer, tokenizer = made
    own = load_base(made[0]).tokenizer
    beginning = "the king said to"
    begun = [*HISTORY, {"role": "assistant", "content": beginning}]
    prompt = peers_text(tokenizer, HISTORY, add_generation_prompt=True)
    assert peers_text(tokenizer, begun, continue_final_message=True) == prompt + beginning
    tokens = ids(own, prompt) + own.encode(beginning)
    said = own.decode(greedy(peer, tokens, 12))
    body = {"model": made[0].name, "max_tokens": 12, "messages": begun, "temperature": 0}
    answer = live.client.post("/v1/messages", json=body).json()
    assert answer["content"][0]["text"] == said
    usage = answer["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len(tokens)
    options = {"temperature": 0, "num_predict": 12}
    body = {"model": made[0].name, "messages": begun, "options": options, "stream": False}
    answer = live.client.post("/api/chat", json=body).json()
    assert answer["message"]["content"] == said
    assert answer["prompt_eval_count"] == len(tokens)


def test_an_instruction_is_a_turn(live: Live, made: tuple[Path, Any, Any]) -> None:
    _, peer, tokenizer = made
    messages = [{"role": "user", "content": "the king\n\nsaid"}]
    tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    body = {"instruction": "the king", "input": "said", "temperature": 0, "max_new_tokens": 8}
    answer = live.client.post("/instruct", json=body).json()
    assert answer["usage"]["prompt_tokens"] == len(tokens)
    own = load_base(made[0]).tokenizer
    assert answer["response"] == own.decode(greedy(peer, tokens, 8))
    with live.client.stream("POST", "/instruct", json={**body, "stream": True}) as response:
        texts = [data["text"] for _, data in events(response) if data != "[DONE]"]
    assert "".join(texts) == answer["response"]


def test_it_continues_texts(live: Live, made: tuple[Path, Any, Any]) -> None:
    """`ignore_eos` goes on after the end token, which has no text."""
    _, peer, tokenizer = made
    tokens = tokenizer.encode("the king said", add_special_tokens=False)
    body = {"prompt": "the king said", "temperature": 0, "max_new_tokens": 10}
    [choice] = live.client.post("/generate", json=body).json()["choices"]
    own = load_base(made[0]).tokenizer
    assert choice["text"] == own.decode(greedy(peer, tokens, 10))


def test_a_template_that_cannot_be_used_is_no_chat(tmp_path: Path) -> None:
    """It is refused by name for chat, with the reason; texts are continued."""
    write_directory("llama-groups", tmp_path / "odd", CHATML.replace("{% endfor %}", ""))
    with serve(base=tmp_path / "odd") as live:
        for path, body in (
            ("/instruct", {"instruction": "hi"}),
            ("/v1/chat/completions", {"model": "odd", "messages": HISTORY}),
        ):
            answer = live.client.post(path, json=body)
            assert answer.status_code == 404
            assert "the chat template of odd cannot be used: it is no valid Jinja: " in answer.text
        answer = live.client.post("/generate", json={"prompt": "a", "max_new_tokens": 2})
        assert answer.status_code == 200
        assert live.client.get("/models").json()["models"][0]["template"] is None


def test_what_a_template_does_not_render_is_refused_in_its_words(tmp_path: Path) -> None:
    """And what it cannot be made to render is no harm to the next conversation."""
    template = CHATML_AND_BOS + (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% if 'flood' in messages[0].content %}"
        "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}{% endif %}"
    )
    write_directory("llama-groups", tmp_path / "picky", template)
    with serve(base=tmp_path / "picky") as live:
        for messages, problem in (
            (
                [{"role": "system", "content": "Be brief."}, *HISTORY],
                "conversation: no system role",
            ),
            ([{"role": "user", "content": "flood"}], "writes more than 4194304 characters"),
        ):
            body = {"model": "picky", "messages": messages, "max_tokens": 2}
            answer = live.client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 422
            assert problem in answer.json()["error"]["message"]
        answer = live.client.post("/instruct", json={"instruction": "flood"})
        assert answer.status_code == 422
        assert "the chat template writes more than" in answer.json()["detail"]
        body = {"model": "picky", "messages": HISTORY, "max_tokens": 2}
        assert live.client.post("/v1/chat/completions", json=body).status_code == 200


def test_the_longest_sequence_can_be_shorter_than_the_context(made: tuple[Path, Any, Any]) -> None:
    with serve(base=made[0], max_context=48) as live:
        assert live.client.get("/models").json()["models"][0]["context_length"] == 48
        body = {"prompt": "a", "max_new_tokens": 48}
        answer = live.client.post("/generate", json=body)
        assert answer.status_code == 400
        assert answer.json()["context_length"] == 48
        assert live.client.post("/generate", json={**body, "max_new_tokens": 4}).status_code == 200
    with serve(base=made[0], max_context=4096, ready=False) as live:
        live.wait(lambda: live.service.state == "failed")
        assert "max_context is 4096" in str(live.service.failure)


def test_8_bits_are_the_default_and_close_to_fp32(made: tuple[Path, Any, Any]) -> None:
    body = {"prompt": "hello", "max_new_tokens": 1, "temperature": 0, "logprobs": 5}
    found = {}
    for quantize in ("auto", "int8", "none"):
        with serve(base=made[0], quantize=quantize) as live:
            [choice] = live.client.post("/generate", json=body).json()["choices"]
            found[quantize] = choice["logprobs"][0]["logprob"]
    if library.load() is not None:
        assert found["auto"] == found["int8"]
    assert 0 < abs(found["int8"] - found["none"]) < 0.2


def test_4_bits_of_a_file_stay_so(tmp_path: Path) -> None:
    peer = families.new_peer(families.CASES["llama-groups"])
    with serve(base=write_gguf(tmp_path / "x.gguf", peer, "Q4_1"), quantize="int8") as live:
        [model] = live.client.get("/models").json()["models"]
        assert model["weights"].startswith("int4")
        assert live.client.post("/generate", json={"prompt": "a"}).status_code == 200


def test_a_panic_while_loading_ends_in_failed(checkpoints: Path, tmp_path: Path) -> None:
    """A token file with a rank twice makes tiktoken panic, which is no Exception."""
    shutil.copytree(checkpoints / "base", tmp_path / "base")
    path = tmp_path / "base" / "tokenizer.tiktoken"
    lines = path.read_bytes().splitlines()
    lines[5] = lines[5].split()[0] + b" " + lines[6].split()[1]
    path.write_bytes(b"\n".join(lines) + b"\n")
    rehash(tmp_path / "base")
    with serve(base=tmp_path / "base", ready=False) as live:
        live.wait(lambda: live.service.state == "failed")
        assert "tokenizer.tiktoken" in str(live.service.failure)
        answer = live.client.get("/readyz")
        assert answer.status_code == 503
        assert "tokenizer.tiktoken" in answer.text


def test_any_failure_of_loading_is_told(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(*_: object, **__: object) -> None:
        raise PanicException("a library has panicked")

    monkeypatch.setattr("app.engine.loading.load_base", panic)
    with serve(base=checkpoints / "base", ready=False) as live:
        live.wait(lambda: live.service.state == "failed")
        assert "PanicException: a library has panicked" in str(live.service.failure)


def rehash(directory: Path) -> None:
    """Make the card agree with files that a test changed."""
    path = directory / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    for name in card["files"]:
        card["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(card), encoding="utf-8")


def test_a_base_is_a_directory_or_a_file(tmp_path: Path) -> None:
    with pytest.raises((ValueError, UsageError), match="there is no such directory or file"):
        Settings(base=tmp_path / "nothing")
