"""How the texts of a request are generated, whatever its body calls the settings."""

from dataclasses import dataclass, replace

from model.engine.request import Constraint
from model.sampling import SamplingSettings

DEFAULT_NEW_TOKENS = 128


@dataclass(frozen=True)
class Options:
    """What /generate, /instruct and their OpenAI counterparts have in common."""

    sampling: SamplingSettings
    """Of the first choice of each prompt; choice k draws with seed + k."""
    max_new_tokens: int | None = None
    """As many must fit the context beside the prompt; None is what it has room for, at most
    `default_new_tokens`."""
    default_new_tokens: int | None = DEFAULT_NEW_TOKENS
    """None is no bound but the context's."""
    limit: str = "max_new_tokens"
    """The name of that field in the body, for errors."""
    choices: int = 1
    """For each prompt."""
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    stream: bool = False
    constraint: Constraint | None = None

    def of_choice(self, choice: int) -> SamplingSettings:
        """How that choice of a prompt draws its tokens."""
        seed = self.sampling.seed
        return self.sampling if seed is None else replace(self.sampling, seed=seed + choice)
