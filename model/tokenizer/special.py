"""The tokens that no text encodes to, and what each of them is for.

Files name these tokens in many ways, and one name stands for several things: SmolLM2's end-of-
sequence token ends a turn, GPT-2's a document. Here each role has its own name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from model.errors import CheckpointError
from model.json_files import field, list_field

END_OF_TEXT = "<|endoftext|>"
_DOCUMENT_ENDS = (END_OF_TEXT, "<|end_of_text|>")
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>")
_MESSAGE_ENDS = ("<|eom_id|>",)

MOST_IDS = 2**22
"""Bound on ids; the largest vocabularies have 2**18."""


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens by their roles.

    Raises:
        CheckpointError: an id is out of bounds or stands for two tokens, or a role's id is none of
            a special token; says which.
    """

    ids: Mapping[str, int]
    """Every token that text never encodes to, by its text."""
    beginning: int | None
    """Begins a document; often the token that ends one."""
    adds_beginning: bool
    """Whether the model reads the beginning token before every text."""
    end_of_document: int
    end_of_turn: int | None
    """Ends a message of a chat."""
    pad: int
    stop: tuple[int, ...]
    """When one of these is drawn, the generation ends."""

    def __post_init__(self) -> None:
        texts: dict[int, str] = {}
        for text, token in self.ids.items():
            check_id(token, text)
            if token in texts:
                raise CheckpointError(
                    f"the special tokens {texts[token]!r} and {text!r} both have the id {token}"
                )
            texts[token] = text
        roles: dict[str, int | None] = {
            "beginning": self.beginning,
            "end_of_document": self.end_of_document,
            "end_of_turn": self.end_of_turn,
            "pad": self.pad,
            **{f"stop[{place}]": token for place, token in enumerate(self.stop)},
        }
        for role, own in roles.items():
            if own is not None and own not in texts:
                raise CheckpointError(f"{role} is {own!r}, which is no special token's id")
        if self.adds_beginning and self.beginning is None:
            raise CheckpointError("adds_beginning is true, but there is no beginning token")

    @classmethod
    def of(
        cls,
        ids: Mapping[str, int],
        *,
        beginning: int | None = None,
        adds_beginning: bool = False,
        ends: Iterable[int] = (),
        end_of_turn: int | None = None,
        pad: int | None = None,
    ) -> "SpecialTokens":
        """The roles as far as a file gives them; the others by the tokens' well-known names.

        Args:
            ids: of all special tokens, by their texts.
            beginning: begins a document; without it the token that ends one does.
            ends: end-of-sequence tokens, whatever they end.
            end_of_turn: where no token has one of the names for it.

        Raises:
            CheckpointError: no token ends a document, or as of the class.
        """
        ends = tuple(ends)
        document = _first(ids, _DOCUMENT_ENDS)
        if document is None:
            if not ends:
                raise CheckpointError(
                    f"has no {' or '.join(_DOCUMENT_ENDS)} token, and names no eos token"
                )
            document = ends[0]
        turn = _first(ids, _TURN_ENDS)
        turn = end_of_turn if turn is None else turn
        message = _first(ids, _MESSAGE_ENDS)
        stop = {document, *ends, end_of_turn, turn, message} - {None}
        return cls(
            ids=dict(ids),
            beginning=document if beginning is None else beginning,
            adds_beginning=adds_beginning,
            end_of_document=document,
            end_of_turn=turn,
            pad=document if pad is None else pad,
            stop=tuple(sorted(token for token in stop if token is not None)),
        )

    def settings(self) -> dict[str, Any]:
        """As JSON has it: the ids, and the roles unless they are what the names say."""
        values: dict[str, Any] = {"special_tokens": dict(self.ids)}
        try:
            follows = self == SpecialTokens.of(self.ids)
        except CheckpointError:
            follows = False
        if not follows:
            roles = asdict(self)
            del roles["ids"]
            values["roles"] = {**roles, "stop": list(self.stop)}
        return values

    @classmethod
    def from_settings(cls, values: Mapping[str, Any], source: str) -> "SpecialTokens":
        """What `settings` gave.

        Args:
            source: where the values come from, for errors.

        Raises:
            CheckpointError: a field is missing or wrong; names it.
        """
        ids = field(values, "special_tokens", dict, source)
        for text, token in ids.items():
            check_id(token, text)
        if "roles" not in values:
            return cls.of(ids)
        roles = field(values, "roles", dict, source)
        optional = (int, type(None))
        return cls(
            ids=ids,
            beginning=field(roles, "beginning", optional, source),
            adds_beginning=field(roles, "adds_beginning", bool, source),
            end_of_document=field(roles, "end_of_document", int, source),
            end_of_turn=field(roles, "end_of_turn", optional, source),
            pad=field(roles, "pad", int, source),
            stop=tuple(list_field(roles, "stop", int, source)),
        )


def well_known(tokens: Mapping[str, int]) -> dict[str, int]:
    """Those of `tokens` that are special by their names, whatever else is said of them."""
    names = (*_DOCUMENT_ENDS, *_TURN_ENDS, *_MESSAGE_ENDS)
    return {name: tokens[name] for name in names if name in tokens}


def check_id(token: object, text: object) -> None:
    """Refuse what can be no token's id.

    Raises:
        CheckpointError: it is no whole number from 0 to `MOST_IDS`.
    """
    if type(token) is not int or not 0 <= token < MOST_IDS:
        raise CheckpointError(
            f"the token {text!r} has the id {token!r}; ids are whole numbers from 0 to "
            f"{MOST_IDS - 1}"
        )


def _first(ids: Mapping[str, int], names: Iterable[str]) -> int | None:
    return next((ids[name] for name in names if name in ids), None)
