"""How long a sequence may be, and what the cache takes."""

import pytest
import torch

from model.architecture import PRESETS, Architecture
from model.engine.settings import EngineSettings
from model.errors import UsageError
from model.kv_cache import BLOCK_TOKENS, KVCache

SMALL = Architecture(100, 128, n_layer=2, n_head=2, n_embd=32)
LLAMA = PRESETS["llama-3.2-1b"]
GB = 2**30


def size(config: Architecture, settings: EngineSettings, dtype: torch.dtype) -> int:
    return settings.blocks(config, dtype) * KVCache.bytes_per_block(config, dtype)


def test_16_contexts_of_a_small_network() -> None:
    settings = EngineSettings()
    assert settings.context_length(SMALL, torch.float32) == 128
    assert settings.blocks(SMALL, torch.float32) == 16 * 128 // BLOCK_TOKENS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_takes_more_than_4_gb_unasked(name: str, dtype: torch.dtype) -> None:
    """16 contexts of Llama 3.2 1B would be 69 GB."""
    config, settings = PRESETS[name], EngineSettings()
    assert size(config, settings, dtype) <= 4 * GB
    length = settings.context_length(config, dtype)
    assert length <= config.context_length
    assert settings.blocks(config, dtype) * BLOCK_TOKENS >= length


def test_a_context_that_does_not_fit_is_shorter() -> None:
    assert EngineSettings().context_length(LLAMA, torch.float32) == 4 * GB // (16 * 2 * 512 * 4)
    assert EngineSettings().context_length(LLAMA, torch.bfloat16) == 131072


def test_a_length_that_is_asked_for_is_given() -> None:
    settings = EngineSettings(max_context=131072)
    assert settings.context_length(LLAMA, torch.float32) == 131072
    assert size(LLAMA, settings, torch.float32) == 131072 * 65536  # one context, 8 GB
    settings = EngineSettings(max_context=1000)
    assert settings.context_length(LLAMA, torch.float32) == 1000
    assert size(LLAMA, settings, torch.float32) == 16 * 63 * BLOCK_TOKENS * 65536


def test_only_keys_and_values_that_are_stored_count() -> None:
    """Llama 3.2 1B has 32 heads, and keys for 8."""
    assert KVCache.bytes_per_block(LLAMA, torch.bfloat16) == 2 * 16 * 8 * 64 * BLOCK_TOKENS * 2


def test_more_than_the_network_has_is_refused() -> None:
    with pytest.raises(UsageError, match="max_context is 129; the network's context has 128"):
        EngineSettings(max_context=129).context_length(SMALL, torch.float32)
    assert EngineSettings(cache_mb=1).context_length(SMALL, torch.float32) == 128


def test_a_cache_too_small_for_a_context_says_what_helps() -> None:
    with pytest.raises(UsageError, match=r"one context of 131072 tokens needs 8192 \(max_context"):
        EngineSettings(cache_mb=100).blocks(LLAMA, torch.float32)
    blocks = EngineSettings(cache_mb=100, max_context=1024).blocks(LLAMA, torch.float32)
    assert blocks == 100


def test_negative_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="max_context is -1"):
        EngineSettings(max_context=-1)
