"""Networks of all families, exported, compute in `transformers` and llama.cpp what they do here."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from model.checkpoint import Base, golden, load_base
from model.convert.gguf_read import read_gguf
from model.prompts import Alpaca, Message, Role, encode
from tests.parity import gguf_files
from tests.parity.exported import export, new_base
from tests.parity.families import (
    CASES,
    CONTEXT,
    ONE_OF_EACH,
    RELATIVE,
    Peer,
    assert_close,
    difference,
    our_logits,
    peer_logits,
    random_tokens,
)
from tests.parity.test_gguf_families import FILES
from training.cli import main

TOKENS = random_tokens(100)
TEXTS = (
    "Once upon a time, in 1984, there were 12,345.67 sheep and 9 dogs.",
    "I'll we've he's don't I'M YOU'RE they'd 's't",
    "a\n\n\nb\t\tc \r\n  d\u00a0e\u2003f\u3000g\x85h\u2028i   ",
    "1 22 333 4444 3.14e-10 ½² Ⅷ ٣٤ 三",
    "naïve café Straße Ελληνικά русский עברית हिन्दी 日本語 👍🏽",
)
CONVERSATIONS: tuple[list[tuple[Role, str]], ...] = (
    [("user", "Name a bird.")],
    [("system", "Be brief."), ("user", "Name a bird.")],
    [
        ("system", "Be brief."),
        ("user", "Name a bird."),
        ("assistant", "A wren."),
        ("user", "Another? 👍🏽 naïve 日本語 1984"),
    ],
    [("user", "One."), ("assistant", "Two."), ("user", "Three."), ("assistant", "Four.")],
)

Pair = tuple[Peer, Base]


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pair(name: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return new_base(tmp_path_factory.mktemp(name), name)


@pytest.fixture(scope="module")
def hugging_face(pair: Pair) -> Path:
    base = pair[1].path
    return export(base, base.parent / "hf", "hf")


@pytest.fixture(scope="module")
def gguf_file(name: str, pair: Pair) -> Path:
    if name not in FILES:
        pytest.skip("llama.cpp scales the frequencies of this family linearly alone")
    base = pair[1].path
    return export(base, base.parent / "x.gguf", "gguf")


def assert_same_base(back: Base, base: Base) -> None:
    """But for the rotary scaling, whose form is not the same in GGUF."""
    assert back.tokenizer.sha256 == base.tokenizer.sha256
    assert back.tokenizer.special.stop == base.tokenizer.special.stop
    assert (back.template, back.stop_tokens) == (base.template, base.stop_tokens)
    theirs = base.model.state_dict()
    for key, tensor in back.model.state_dict().items():
        assert torch.equal(tensor, theirs[key]), key


class TestHuggingFace:
    def test_logits(self, pair: Pair, hugging_face: Path) -> None:
        """In the class of the family, in fp32, over the whole context."""
        peer, base = pair
        theirs = transformers.AutoModelForCausalLM.from_pretrained(hugging_face)
        assert type(theirs) is type(peer)
        assert theirs.dtype == torch.float32
        tokens = random_tokens(CONTEXT)
        assert_close(our_logits(base.model, tokens), peer_logits(theirs, tokens))

    def test_the_configuration(self, pair: Pair, hugging_face: Path) -> None:
        """Is the one that the weights came from, in all that is computed by."""
        theirs = transformers.AutoConfig.from_pretrained(hugging_face).to_dict()
        wanted = pair[0].config.to_dict()
        written = json.loads((hugging_face / "config.json").read_text())
        others = {"architectures", "dtype", "penwright", "eos_token_id", "bos_token_id"}
        for field in written.keys() & wanted.keys() - others - {"pad_token_id"}:
            assert theirs[field] == (wanted[field] if field != "n_inner" else written[field])
        assert theirs.get("rope_parameters") == wanted.get("rope_parameters")

    def test_the_tokens_that_end_a_text(self, pair: Pair, hugging_face: Path) -> None:
        stops = list(pair[1].stop_tokens)
        wanted = stops[0] if len(stops) == 1 else stops
        for file in ("config.json", "generation_config.json"):
            assert json.loads((hugging_face / file).read_text())["eos_token_id"] == wanted
        generation = transformers.GenerationConfig.from_pretrained(hugging_face)
        assert generation.eos_token_id == wanted

    def test_tokens(self, pair: Pair, hugging_face: Path) -> None:
        ours = pair[1].tokenizer
        theirs = transformers.AutoTokenizer.from_pretrained(hugging_face)
        for text in TEXTS:
            assert theirs(text)["input_ids"] == ours.encode_prompt(text)
        assert theirs.eos_token_id == ours.special.end_of_document
        assert theirs.pad_token_id == ours.special.pad
        assert theirs.bos_token_id == ours.special.beginning

    @pytest.mark.parametrize("answer", [True, False])
    def test_conversations(self, pair: Pair, hugging_face: Path, answer: bool) -> None:
        base = pair[1]
        assert base.template is not None
        theirs = transformers.AutoTokenizer.from_pretrained(hugging_face)
        for conversation in CONVERSATIONS:
            asks = conversation[-1][0] == "user"
            if base.template == Alpaca() and answer != asks:
                continue  # which Alpaca has no form for
            ids = theirs.apply_chat_template(
                [{"role": role, "content": text} for role, text in conversation],
                add_generation_prompt=answer,
                tokenize=True,
                return_dict=False,
            )
            parts = base.template.render([Message(*turn) for turn in conversation], answer=answer)
            assert ids == encode(parts, base.tokenizer).ids

    def test_the_round_trip(self, pair: Pair, hugging_face: Path, tmp_path: Path) -> None:
        base = pair[1]
        assert main(["import", str(hugging_face), "--out", str(tmp_path / "back")]) == 0
        back = load_base(tmp_path / "back")
        assert (back.config, back.task) == (base.config, base.task)
        assert_same_base(back, base)
        assert back.card["golden"] == base.card["golden"]
        again = export(tmp_path / "back", tmp_path / "again", "hf")
        for file in ("model.safetensors", "tokenizer.json", "generation_config.json"):
            assert (again / file).read_bytes() == (hugging_face / file).read_bytes()


class TestGGUF:
    def test_the_file_is_what_a_converter_writes(
        self, pair: Pair, gguf_file: Path, tmp_path: Path
    ) -> None:
        """Of the network: its fields and its tensors, to the bit but for computed divisors."""
        peer = pair[0]
        ours = gguf.GGUFReader(gguf_file)
        theirs = gguf.GGUFReader(gguf_files.write_gguf(tmp_path / "peer.gguf", peer))
        fields = {name: field.contents() for name, field in ours.fields.items()}
        for name, field in theirs.fields.items():
            if name.startswith(peer.config.model_type):
                assert fields[name] == field.contents(), name
        tensors = {tensor.name: tensor.data for tensor in ours.tensors}
        assert tensors.keys() == {tensor.name for tensor in theirs.tensors}
        for tensor in theirs.tensors:
            closely = 1e-6 if tensor.name == "rope_freqs.weight" else 0.0
            found, wanted = torch.tensor(tensors[tensor.name]), torch.tensor(tensor.data)
            assert torch.allclose(found, wanted, rtol=closely, atol=0.0), tensor.name

    def test_the_tokenizer(self, pair: Pair, gguf_file: Path) -> None:
        fields = {n: f.contents() for n, f in gguf.GGUFReader(gguf_file).fields.items()}
        base = pair[1]
        pre = {"gpt2": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}
        family = fields["general.architecture"]
        scaled = base.tokenizer.special.adds_beginning
        assert fields["tokenizer.ggml.pre"] == pre.get(family, "llama-bpe" if scaled else "smollm")
        assert fields["tokenizer.ggml.add_bos_token"] == scaled
        assert fields["tokenizer.ggml.eos_token_id"] == base.tokenizer.special.end_of_document
        assert base.template is not None
        assert fields["tokenizer.chat_template"] == base.template.jinja()

    def test_the_round_trip(self, pair: Pair, gguf_file: Path, tmp_path: Path) -> None:
        base = pair[1]
        assert main(["import", str(gguf_file), "--out", str(tmp_path / "back")]) == 0
        back = load_base(tmp_path / "back")
        assert back.task == base.task
        assert_same_base(back, base)
        tokens = random_tokens(CONTEXT)
        assert_close(our_logits(back.model, tokens), our_logits(base.model, tokens))
        golden.verify(
            "back", base.card["golden"], back.model, back.tokenizer, None, None, None, base.template
        )
        # What is only computed there has its own form again.
        export(tmp_path / "back", tmp_path / "again", "gguf")
        assert read_gguf(tmp_path / "again").model.config == back.config

    def test_llama_cpp(self, llama_cpp: Any, pair: Pair, gguf_file: Path) -> None:
        """Logits, tokens of text, and the prompts of conversations."""
        base = pair[1]
        f32 = int(gguf.GGMLQuantizationType.F32)
        llama = llama_cpp.Llama(
            str(gguf_file),
            n_ctx=256,
            type_k=f32,
            type_v=f32,
            logits_all=True,
            verbose=False,
            n_threads=1,
            n_threads_batch=1,
        )
        llama.eval(TOKENS)
        logits = torch.tensor(llama.scores[: len(TOKENS)])
        # Its GELU is looked up in a table of half precision.
        relative = 1e-3 if base.config.mlp == "gelu" else RELATIVE
        assert_close(our_logits(base.model, TOKENS), logits, relative)
        for text in TEXTS:
            found = llama.tokenize(text.encode(), add_bos=True, special=False)
            assert found == base.tokenizer.encode_prompt(text)
        assert base.template is not None
        form = llama_cpp.llama_chat_format.Jinja2ChatFormatter(
            template=llama.metadata["tokenizer.chat_template"],
            eos_token=base.tokenizer.token_name(base.tokenizer.end_token),
            bos_token="",
        )
        for conversation in CONVERSATIONS[:3]:
            dicts = [{"role": role, "content": text} for role, text in conversation]
            prompt = form(messages=dicts).prompt
            parts = base.template.render([Message(*turn) for turn in conversation])
            wanted = encode(parts, base.tokenizer).ids
            begins = prompt.startswith("<|begin_of_text|>")
            found = llama.tokenize(prompt.encode(), add_bos=not begins, special=True)
            assert found == wanted
        vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
        for token in base.stop_tokens:
            assert llama_cpp.llama_vocab_is_eog(vocabulary, token)
        llama.close()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        # transformers reads neither GPT-2's context nor Qwen3's width of a head from a file.
        ("gpt2", {"n_positions": 1024}),
        ("llama-each-its-own", {}),
        ("qwen2-groups", {}),
        ("qwen3-groups", {"head_dim": 128}),
    ],
)
def test_gguf_in_transformers(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    """Without rotary scaling, of which it reads nothing."""
    base = new_base(tmp_path, name, **fields)[1]
    export(base.path, tmp_path / "x.gguf", "gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="x.gguf", dtype=torch.float32
    ).eval()
    assert_close(our_logits(base.model, TOKENS), peer_logits(theirs, TOKENS))


@pytest.mark.parametrize(("dtype", "bound"), [("bf16", 0.2), ("fp16", 0.05), ("q8_0", 0.3)])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_other_precisions(name: str, dtype: str, bound: float, tmp_path: Path) -> None:
    """Rounded as asked, in both formats."""
    wide = {} if name == "gpt2" else {"intermediate_size": 96}
    base = new_base(tmp_path, name, **wide)[1]
    whole = our_logits(base.model, TOKENS)
    for kind in ("gguf",) if dtype == "q8_0" else ("gguf", "hf"):
        out = export(base.path, tmp_path / f"out.{kind}", kind, "--dtype", dtype)
        found = our_logits(load_base(out).model, TOKENS)
        assert 0 < difference(found, whole) < bound
