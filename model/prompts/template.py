"""What a prompt template is."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from model.errors import CheckpointError, UsageError
from model.json_files import field
from model.prompts.encoding import ChatTokenizer, token_id
from model.prompts.jinja import ROLE, each, refuse, when
from model.prompts.parts import ROLES, Message, Part
from model.prompts.tools import CallForm, Definition, ToolForm

_CHECK = each(
    "messages",
    when(
        " and ".join(f"{ROLE} != {role!r}" for role in ROLES),
        refuse(f"a message's role is none of {', '.join(ROLES)}"),
    ),
)


@dataclass(frozen=True)
class Template(ABC):
    """Messages to parts. The fields of a subclass are its settings, kept in `config.json`."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Goes up when the same messages give other parts than before."""
    has_turns: ClassVar[bool] = True
    """Whether it marks who says what, so that a model can be trained on conversations."""
    special: ClassVar[tuple[str, ...]] = ()
    """Special tokens that a tokenizer must have for it."""
    tokens: ClassVar[tuple[str, ...]] = ()
    """Tokens that it must have, but which text may encode to as well."""
    kinds: ClassVar[Mapping[str, tuple[type, ...]]] = {}
    """The types of each setting."""
    waits: ClassVar[bool] = False
    """Whether to render is to wait for another process."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any], source: str) -> "Template":
        """The template with the settings in `values`.

        Args:
            source: where they come from, for errors.

        Raises:
            CheckpointError: one is missing or of the wrong type; names `source`.
        """
        return cls(**{key: field(values, key, kinds, source) for key, kinds in cls.kinds.items()})

    def settings(self) -> dict[str, Any]:
        """Name, version and settings, for `config.json`."""
        return {"name": self.name, "version": self.version, **asdict(self)}

    def render(
        self,
        messages: Sequence[Message],
        *,
        answer: bool = True,
        tools: Sequence[Definition] | None = None,
    ) -> list[Part]:
        """The parts of a conversation.

        Args:
            answer: whether the assistant is to answer: the parts then end where its message begins.
            tools: functions that it may call (see `model.prompts.tools`).

        Raises:
            UsageError: there are no messages, or the template has no form for them.
        """
        if not messages:
            raise UsageError("a conversation needs at least one message")
        messages = self.tool_form.written(messages)
        if tools:
            messages = self.tool_form.told(messages, tools, self.usual_system)
        return self._parts(messages, answer)

    @property
    def tool_form(self) -> ToolForm:
        """How tools, calls and results are told, as far as it has no words of its own for them."""
        return ToolForm()

    @property
    def call_form(self) -> CallForm:
        """How the assistant writes a call."""
        return self.tool_form.call

    @property
    def usual_system(self) -> str | None:
        """The system message of a conversation that does not begin with one; None for none."""
        return None

    def jinja(self) -> str:
        """The same in Jinja, as other programs keep templates.

        The variables are those of `transformers`: `messages`, `add_generation_prompt`, `eos_token`
        and `raise_exception`. A comment holds the settings, by which `recognise` knows it again.
        """
        # No text in the settings can end the comment.
        own = json.dumps(self.settings()).replace("#", "\\u0023")
        return "{#- penwright " + own + " -#}" + _CHECK + self._jinja()

    def named_tokens(self) -> dict[str, str | None]:
        """The tokens that `jinja` must find under the names `bos_token` and `eos_token`."""
        return {}

    @staticmethod
    def instruction(instruction: str, input: str = "") -> list[Message]:
        """The conversation that is one instruction, with `input` as the text it works on."""
        return [Message("user", instruction, input)]

    def check(self, tokenizer: ChatTokenizer, source: Path | str) -> None:
        """Make sure that `tokenizer` has the tokens that this template writes.

        Args:
            source: the checkpoint, for errors.

        Raises:
            CheckpointError: it lacks one; names the template and the token.
        """
        for text in self.special:
            if text not in tokenizer.special.ids:
                raise CheckpointError(
                    f"{source}: the {self.name} template needs the special token {text}, "
                    "which the tokenizer lacks"
                )
        for text in self.tokens:
            try:
                token_id(text, tokenizer)
            except KeyError:
                raise CheckpointError(
                    f"{source}: the {self.name} template needs the token {text}, "
                    "which the tokenizer lacks"
                ) from None

    @abstractmethod
    def _parts(self, messages: Sequence[Message], answer: bool) -> list[Part]: ...

    @abstractmethod
    def _jinja(self) -> str: ...
