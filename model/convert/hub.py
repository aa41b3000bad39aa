"""OpenAI's four models from the Hugging Face hub."""

from pathlib import Path

from model.errors import CheckpointError, UsageError

HUB_NAMES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "gpt2-124m": "openai-community/gpt2",
    "gpt2-355m": "openai-community/gpt2-medium",
    "gpt2-774m": "openai-community/gpt2-large",
    "gpt2-1558m": "openai-community/gpt2-xl",
}
"""OpenAI's four models, by the name of their repository and by their size."""

_HUB_FILES = (
    *("config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json"),
)


def download(name: str) -> Path:
    """Fetch one of `HUB_NAMES` from the Hugging Face hub, or find it in the hub's cache.

    Returns:
        a directory for `read_hugging_face`; its name is the revision

    Raises:
        UsageError: `huggingface_hub` is not installed.
        CheckpointError: the hub cannot be reached and nothing is cached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError(
            f"{name}: downloading needs the package huggingface_hub (`pip install '.[hub]'` in "
            "Penwright's directory); a directory that is already here needs nothing"
        ) from error
    try:
        return Path(snapshot_download(HUB_NAMES[name], allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the hub's, the HTTP library's and the OS's own
        raise CheckpointError(
            f"{name}: {HUB_NAMES[name]} cannot be downloaded and is not cached "
            f"({type(error).__name__}); a directory that was downloaded elsewhere can be imported"
        ) from error
