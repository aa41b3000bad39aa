"""What a user can get wrong, as exceptions whose message is one clear line.

    PenwrightError            something that the message explains; exit code 1
    ├── UsageError            a flag or setting is wrong; exit code 2
    ├── DataError             a training or evaluation file cannot be used
    ├── CheckpointError       a checkpoint cannot be loaded, or fails its verification
    ├── TextError             a text that cannot be tokenized
    └── ContextLengthError    more tokens than the model has positions for

`training` prints them without a traceback; `app` turns them into HTTP problems.
"""


class PenwrightError(Exception):
    """An error whose message tells a user what is wrong and what is allowed."""


class UsageError(PenwrightError):
    """A flag or setting has a value that is not allowed."""


class DataError(PenwrightError):
    """A data file is missing, empty or malformed; the message names the file and the row."""


class CheckpointError(PenwrightError):
    """A checkpoint is missing, altered, of another version, or does not belong to its base."""


class TextError(PenwrightError):
    """A text that the tokenizer cannot cut up."""


class ContextLengthError(PenwrightError):
    """A sequence is longer than the model's context."""

    def __init__(self, length: int, context_length: int) -> None:
        super().__init__(
            f"{length} tokens do not fit the model's context of {context_length} tokens"
        )
        self.length = length
        self.context_length = context_length
