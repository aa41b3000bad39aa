"""The network and all that a checkpoint means. Knows nothing of HTTP or of optimizers."""
