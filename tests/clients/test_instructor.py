"""Instructor gets objects of pydantic's models, by a call of a tool that is named."""

import textwrap
from typing import Any

import pytest

pytestmark = pytest.mark.clients
ENVIRONMENT = "tools"

BEFORE = """
import importlib.util
if importlib.util.find_spec("instructor") is None:
    print('"instructor is not installed"')
    sys.exit()
import instructor
import openai
from typing import Literal
from pydantic import BaseModel, Field

class Person(BaseModel):
    name: str = Field(max_length=10)
    age: int = Field(ge=0, le=150)
    mood: Literal["glad", "sad"]

client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
body = {
    "model": "instruct",
    "messages": [{"role": "user", "content": "Ann is 31 and glad."}],
    "max_tokens": 300,
    "temperature": 2.0,
    "seed": 1,
}
"""


def found(run: Any, program: str) -> Any:
    answer = run(BEFORE + textwrap.dedent(program))
    if answer == "instructor is not installed":
        pytest.skip(answer)
    return answer


def test_an_object(run: Any) -> None:
    people = found(
        run,
        """
        ai = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
        people = [
            ai.chat.completions.create(response_model=Person, max_retries=0, **{**body, "seed": i})
            for i in range(3)
        ]
        print(json.dumps([each.model_dump() for each in people]))
        """,
    )
    assert all(set(person) == {"name", "age", "mood"} for person in people)
    assert all(0 <= person["age"] <= 150 for person in people)


def test_what_a_validator_refuses_is_asked_for_again(run: Any) -> None:
    """The answer and the reason go back as a call and its result."""
    attempts, person = found(
        run,
        """
        from pydantic import field_validator
        seen = []

        class Once(Person):
            @field_validator("age")
            @classmethod
            def later(cls, value):
                seen.append(value)
                if len(seen) == 1:
                    raise ValueError("think again")
                return value

        ai = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
        person = ai.chat.completions.create(response_model=Once, max_retries=2, **body)
        print(json.dumps([len(seen), person.model_dump()]))
        """,
    )
    assert attempts == 2
    assert person["mood"] in ("glad", "sad")


def test_an_object_that_grows_in_a_stream(run: Any) -> None:
    partials = found(
        run,
        """
        ai = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
        stream = ai.chat.completions.create_partial(response_model=Person, **body)
        print(json.dumps([each.model_dump() for each in stream]))
        """,
    )
    assert len(partials) > 3
    assert partials[-1]["mood"] in ("glad", "sad")
