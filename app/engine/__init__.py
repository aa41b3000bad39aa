"""The models that are served: loaded, verified, and each in an engine with its thread."""
