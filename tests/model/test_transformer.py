"""The network: size, initialisation, dropout, causality, context."""

import math

import pytest
import torch

from model.architecture import PRESETS, Architecture
from model.errors import ContextLengthError
from model.kv_cache import CacheStep, KVCache
from model.transformer import Transformer
from tests.model.engines import Span


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2-124m", 124_439_808),
        ("gpt2-355m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1558m", 1_557_611_200),
        ("small", 13_989_888),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        assert Transformer(PRESETS[name]).parameter_count() == count


def test_an_untied_head_is_a_matrix_of_its_own(config: Architecture) -> None:
    tied = Transformer(config)
    untied = Transformer(Architecture(**{**config.to_dict(), "tied": False}))
    assert tied.output_weight is tied.embedding.weight
    assert untied.output_weight is not untied.embedding.weight
    extra = untied.parameter_count() - tied.parameter_count()
    assert extra == config.vocab_size * config.n_embd


def test_initialisation() -> None:
    """N(0, 0.02); residual projections scaled by 1/sqrt(2·layers); biases 0; layer norms 1."""
    model = Transformer(Architecture(600, 64, n_layer=8, n_head=4, n_embd=128, tied=False))
    model.init_weights(torch.Generator().manual_seed(0))
    seen = set()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert torch.all(parameter == 0), name
        elif parameter.ndim == 1:
            assert torch.all(parameter == 1), name
        else:
            std = (
                0.02 / math.sqrt(16)
                if name.endswith(("attention.out.weight", "mlp.down.weight"))
                else 0.02
            )
            # Five standard errors of a mean and of a standard deviation.
            error = 5 / math.sqrt(parameter.numel())
            assert abs(parameter.mean().item()) < error * std, name
            assert abs(parameter.std().item() / std - 1) < error, name
            seen.add(name.split(".")[-2])
    assert seen == {"embedding", "positions", "qkv", "out", "up", "down", "head"}


def test_initialisation_follows_its_generator(config: Architecture) -> None:
    models = [Transformer(config) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.init_weights(torch.Generator().manual_seed(seed))
    first, same, other = (m.blocks[1].mlp.up.weight for m in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_first_loss_is_that_of_a_uniform_guess(model: Transformer) -> None:
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        logits = model.logits(model(tokens))[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:])
    assert abs(loss.item() - math.log(261)) < 0.1


def test_dropout_acts_in_training_only(config: Architecture) -> None:
    model = Transformer(config, dropout=0.5)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(tokens), model(tokens))
        model.train()
        assert not torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize("part", ["embedding", "attention", "residual"])
def test_each_dropout_acts(config: Architecture, part: str) -> None:
    """With all but one of the dropouts set to zero, outputs still vary."""
    model = Transformer(config, dropout=0.5).train()
    model.init_weights(torch.Generator().manual_seed(0))
    if part != "embedding":
        model.dropout.p = 0.0
    for block in model.blocks:
        if part != "attention":
            block.attention.dropout = 0.0
        if part != "residual":
            block.dropout.p = 0.0
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        assert not torch.equal(model(tokens), model(tokens))


def test_later_tokens_change_nothing_before_them(model: Transformer) -> None:
    first, second = torch.arange(20)[None], torch.arange(20)[None]
    second[0, 12:] += 100
    with torch.no_grad():
        a, b = model(first)[0], model(second)[0]
    assert torch.allclose(a[:12], b[:12], atol=1e-6)
    assert not torch.allclose(a[12:], b[12:], atol=1e-2)


def test_padding_after_a_row_changes_nothing_in_it(model: Transformer) -> None:
    row = torch.arange(7)
    batch = torch.stack([torch.cat([row, torch.full((9,), 260)]), torch.arange(16)])
    with torch.no_grad():
        assert torch.allclose(model(batch)[0, :7], model(row[None])[0], atol=1e-5)


def test_a_full_context_is_allowed_and_one_more_is_not(model: Transformer) -> None:
    with torch.no_grad():
        assert model(torch.zeros(1, 32, dtype=torch.long)).shape == (1, 32, 32)
        with pytest.raises(ContextLengthError, match=r"33 tokens do not fit .* of 32") as caught:
            model(torch.zeros(1, 33, dtype=torch.long))
    assert (caught.value.length, caught.value.context_length) == (33, 32)


class TestCache:
    def test_it_takes_the_memory_that_it_says(self, config: Architecture) -> None:
        cache = KVCache(config, blocks=3, dtype=torch.bfloat16)
        assert cache.nbytes == 3 * KVCache.bytes_per_block(config, torch.bfloat16)
        assert cache.nbytes == 3 * 16 * 2 * 2 * 32 * 2  # tokens, layers, K and V, width, bytes

    def test_a_segment_stays_in_its_blocks(self, config: Architecture) -> None:
        with pytest.raises(AssertionError, match="overruns"):
            CacheStep(KVCache(config, blocks=2), [Span([1], 15, 2)])

    def test_a_block_forgets_its_last_user(self, model: Transformer) -> None:
        cache = KVCache(model.config, blocks=2)
        with torch.no_grad():
            for length in (20, 5):
                step = CacheStep(cache, [Span([1, 0], 0, length)])
                places = torch.arange(length)
                hidden = model(places + 40, positions=places, cache=step)
            alone = model((torch.arange(5) + 40)[None])[0]
        assert torch.allclose(hidden, alone, atol=1e-5)
