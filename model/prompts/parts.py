"""Messages, and the parts that a template makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from model.errors import UsageError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class ToolCall:
    """A function that the assistant asks for."""

    name: str
    arguments: Mapping[str, Any]
    """By their names, as of JSON."""
    id: str = ""
    """By which a result is known; few templates write it."""


@dataclass(frozen=True)
class Message:
    """What one side of a conversation says.

    Raises:
        UsageError: there is no such role.
    """

    role: Role
    text: str
    input: str = ""
    """The text that an instruction works on, where it is kept apart; empty for none."""
    learnt: bool = True
    """Whether a model learns to say it; of no account unless it is the assistant's."""
    calls: tuple[ToolCall, ...] = ()
    """What the assistant calls, after what it says."""
    result_of: ToolCall | None = None
    """The call whose result the text is, which the user brings; None for what the user says."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UsageError(f"the role {self.role!r} of a message is none of {', '.join(ROLES)}")

    @property
    def said(self) -> bool:
        """Whether it is the assistant's, and a model learns to say it."""
        return self.role == "assistant" and self.learnt

    @property
    def content(self) -> str:
        """All of it, for templates that have no place of its own for an input."""
        return f"{self.text}\n\n{self.input}" if self.input else self.text


@dataclass(frozen=True)
class Text:
    """Ordinary text, whatever stands in it."""

    text: str
    said: bool = False
    """Whether the assistant says it, so that a model learns to, unless it is not `learnt`."""
    learnt: bool = True


@dataclass(frozen=True)
class Special:
    """A token of a template's own by its text, like `<|im_end|>`."""

    text: str
    said: bool = False
    learnt: bool = True


@dataclass(frozen=True)
class EndOfDocument:
    """The special token that ends a document, which each tokenizer calls by another name."""

    said: bool = False
    learnt: bool = True


Part = Text | Special | EndOfDocument
