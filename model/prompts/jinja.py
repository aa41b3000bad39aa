"""Pieces of Jinja, in which templates are written for other programs.

Every tag takes the white space around it, so nothing is rendered but what is said. An expression
is a text here; `repr` of a text is the expression that stands for it, as Jinja reads Python's
escapes. Templates keep to what those of Qwen3 and Llama 3 use themselves, for not every program's
Jinja has more.
"""


def say(*expressions: str) -> str:
    """Render texts one after the other."""
    return "{{- " + " + ".join(expressions) + " -}}"


def put(name: str, expression: str) -> str:
    """Give a variable a value."""
    return "{%- set " + name + " = " + expression + " -%}"


def when(condition: str, then: str, otherwise: str = "") -> str:
    """One of two pieces."""
    branch = "{%- else -%}" + otherwise if otherwise else ""
    return "{%- if " + condition + " -%}" + then + branch + "{%- endif -%}"


def each(messages: str, body: str) -> str:
    """A piece for each `message` of a list."""
    return "{%- for message in " + messages + " -%}" + body + "{%- endfor -%}"


def refuse(why: str) -> str:
    """Raise an error."""
    return say(f"raise_exception({why!r})")


ROLE, CONTENT = "message['role']", "message['content']"
