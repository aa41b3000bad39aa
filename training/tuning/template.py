"""In which template a training writes conversations."""

from model.checkpoint import Base
from model.errors import UsageError
from model.prompts import Alpaca, Template
from model.prompts.settings import BUILT_IN

AUTO = "auto"
CHOICES = (AUTO, *BUILT_IN)
"""For `--template`; `auto` is the base's own, or Alpaca's where it has none."""


def template_of(base: Base, name: str) -> Template:
    """The template called `name`: with the base's own settings if that is the base's own.

    Raises:
        UsageError: there is no such template, or the base's own is none that can be used.
        CheckpointError: the base's tokenizer lacks tokens that it needs.
    """
    if name not in CHOICES:
        raise UsageError(f"--template is {name!r}; it must be one of {', '.join(CHOICES)}")
    own = base.template
    if own is not None and name in (AUTO, own.name):
        return own
    if name == AUTO and base.template_problem:
        raise UsageError(
            f"the chat template of {base.path} cannot be used: {base.template_problem}; --template "
            f"says which one to train with: {', '.join(BUILT_IN)}"
        )
    template = Alpaca() if name == AUTO else BUILT_IN[name]()
    template.check(base.tokenizer, base.path)
    return template
