"""Loops that train a LoRA adapter, each a `training.base.TrainingSystem`.

Their work directory holds the tokens as `training.base` reads them, and in `hugging-face` the base
as the peers take it.
"""
