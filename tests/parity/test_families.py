"""Networks of all families compute what `transformers` computes with the same files, in fp32."""

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.checkpoint import Base, load_base
from model.convert import read_hugging_face
from model.convert.families import FAMILIES, their_names
from model.convert.hf_read import CONV1D
from model.cpu import library
from model.engine.engine import Engine
from model.engine.request import Generate, Request, Text
from model.engine.settings import EngineSettings
from model.kv_cache import KVCache
from model.sampling import SamplingSettings
from tests.parity.families import (
    CASES,
    CONTEXT,
    ONE_OF_EACH,
    RELATIVE,
    Peer,
    assert_close,
    cached_logits,
    difference,
    new_peer,
    our_logits,
    peer_logits,
    random_tokens,
    write_peer,
)

PROMPTS = (random_tokens(1, 1), random_tokens(6, 2), random_tokens(30, 3), random_tokens(17, 4))
NEW = 40
"""Tokens of a greedy continuation."""


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pair(name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Peer, Base]:
    peer = new_peer(CASES[name])
    return peer, load_base(write_peer(peer, tmp_path_factory.mktemp(name)))


@cache
def greedy(peer: Peer, prompt: tuple[int, ...]) -> list[int]:
    """The continuation by `transformers`, after the check that no token of it is nearly a tie."""
    ids = torch.tensor([prompt])
    found: list[int] = peer.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False
    )[0].tolist()
    logits = peer_logits(peer, found)
    leads = -logits.topk(2).values.diff(dim=-1)[len(prompt) - 1 : -1]
    assert leads.min() > 1e-4, "a tie here would leave nothing to compare"
    return found[len(prompt) :]


def test_the_architecture(name: str, pair: tuple[Peer, Base]) -> None:
    """Heads, widths, the head and the positions are those of the configuration."""
    peer, base = pair
    theirs, ours = peer.config, base.config
    assert ours.parameter_count() == base.model.parameter_count() == peer.num_parameters()
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.n_head == theirs.num_attention_heads
    assert ours.context_length == CONTEXT
    if name.startswith("gpt2"):
        assert ours.rope is None
        assert ours.is_gpt2 == (name == "gpt2")
        return
    assert ours.rope is not None
    assert (ours.n_kv_head, ours.head_dim) == (
        theirs.num_key_value_heads,
        CASES[name].fields["head_dim"],
    )
    assert ours.rope.base == theirs.rope_parameters["rope_theta"]
    scaling = ours.rope.scaling
    assert theirs.rope_parameters["rope_type"] == ("default" if scaling is None else scaling.kind)


@pytest.mark.parametrize("length", [1, 30, CONTEXT])
def test_logits(pair: tuple[Peer, Base], length: int) -> None:
    peer, base = pair
    tokens = random_tokens(length)
    assert_close(our_logits(base.model, tokens), peer_logits(peer, tokens))


def test_shards(name: str, pair: tuple[Peer, Base], tmp_path: Path) -> None:
    peer, base = pair
    write_peer(peer, tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    imported = read_hugging_face(tmp_path)
    assert len(imported.weights) > 1
    assert imported.model.config == base.config
    whole = base.model.state_dict()
    for key, tensor in imported.model.state_dict().items():
        assert torch.equal(tensor, whole[key]), key


def test_greedy_continuations(pair: tuple[Peer, Base]) -> None:
    peer, base = pair
    for prompt in PROMPTS:
        theirs = greedy(peer, tuple(prompt))
        best = our_logits(base.model, prompt + theirs[:-1])[len(prompt) - 1 :].argmax(-1)
        assert best.tolist() == theirs


def test_the_engine_answers_all_prompts_at_once(pair: tuple[Peer, Base]) -> None:
    peer, base = pair
    want = Generate(NEW, SamplingSettings(temperature=0.0), ignore_eos=True, logprobs=0)
    requests = [Request(str(i), tuple(prompt), want) for i, prompt in enumerate(PROMPTS)]
    settings = EngineSettings(slots=3, step_tokens=16, cache_mb=8)
    answers = Engine(base, {}, settings, deliver=lambda events: None).run(requests)
    for prompt, events in zip(PROMPTS, answers, strict=True):
        texts = [event for event in events if isinstance(event, Text)]
        tokens = [value.token for text in texts for value in text.logprobs]
        assert tokens == greedy(peer, tuple(prompt))


CUTS = {
    "whole": [70],
    "chunks": [11, 1, 1, 37, 20],
    "single": [1] * 70,
}


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_cached_equals_uncached(pair: tuple[Peer, Base], cuts: list[int]) -> None:
    """With the attention kernel, where it is there and takes heads of this width, and without."""
    peer, base = pair
    fits = library.load() is not None and base.config.head_dim % 16 == 0
    assert (KVCache(base.config, 1).paged is not None) == fits
    tokens = random_tokens(70)
    for kernel in {fits, False}:
        [cached] = cached_logits(base.model, [tokens], [[n] for n in cuts], kernel=kernel)
        assert_close(cached, peer_logits(peer, tokens))


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "torch"])
def test_a_cache_in_bf16_is_close(pair: tuple[Peer, Base], kernel: bool) -> None:
    """Keys and values of 8 bits' precision, all others as they were."""
    tokens = random_tokens(70)
    [cached] = cached_logits(
        pair[1].model, [tokens], [[50], [1], [19]], dtype=torch.bfloat16, kernel=kernel
    )
    assert_close(cached, our_logits(pair[1].model, tokens), 0.03)


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "torch"])
def test_sequences_of_one_step_equal_each_alone(pair: tuple[Peer, Base], kernel: bool) -> None:
    """Sequences join and leave between steps; prefill, chunks and decoding share a step."""
    peer, base = pair
    sequences = [random_tokens(30), random_tokens(6, 1), random_tokens(20, 2)]
    steps = [[10, 0, 0], [5, 6, 1], [1, 0, 1], [14, 0, 18]]
    together = cached_logits(base.model, sequences, steps, kernel=kernel)
    for tokens, logits in zip(sequences, together, strict=True):
        assert_close(logits, peer_logits(peer, tokens))


@torch.no_grad()
def test_a_padded_batch_equals_each_row_alone(pair: tuple[Peer, Base]) -> None:
    peer, base = pair
    rows = [random_tokens(n, n) for n in (150, 3, 40)]
    padded = torch.tensor([[*row, *[299] * (150 - len(row))] for row in rows])
    for row, logits in zip(rows, base.model.logits(base.model(padded)), strict=True):
        assert_close(logits[: len(row)], peer_logits(peer, row))


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_gradients(family: str, tmp_path: Path) -> None:
    """Of the loss of a batch of two, with respect to every weight."""
    peer = new_peer(CASES[family])
    model = read_hugging_face(write_peer(peer, tmp_path)).model.train()
    batch = torch.tensor([random_tokens(150, 1), random_tokens(150, 2)])
    theirs = peer(batch, labels=batch).loss
    theirs.backward()
    logits = model.logits(model(batch[:, :-1]))
    ours = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    ours.backward()  # type: ignore[no-untyped-call]
    assert ours.item() == pytest.approx(theirs.item(), rel=RELATIVE)
    wanted = dict(peer.named_parameters())
    table = FAMILIES[CASES[family].family].hugging_face
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None
        parts = [_gradient(wanted, their) for their in their_names(table, key)]
        assert difference(parameter.grad, torch.cat(parts)) <= RELATIVE, key


def _gradient(parameters: dict[str, Tensor], name: str) -> Tensor:
    """Of one of their weights, as (out, in)."""
    parameter = parameters.get(name, parameters.get(f"transformer.{name}"))
    assert parameter is not None
    assert parameter.grad is not None
    return parameter.grad.T if CONV1D.fullmatch(name) else parameter.grad
