"""Names of models: Ollama's have a tag, which here is always the same."""

from app.engine.service import Service

TAG = ":latest"


def tagged(name: str) -> str:
    """The name as Ollama's clients list it."""
    return name if ":" in name else name + TAG


def untagged(service: Service, name: str) -> str:
    """The name by which the model is known here; any other as it is.

    Raises:
        Problem: 503, the models are not loaded.
    """
    models, plain = service.require_loaded().models, name.removesuffix(TAG)
    return plain if name not in models and plain in models else name
