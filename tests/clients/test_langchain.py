"""LangChain's `ChatOpenAI`: structured output by function calls, and tools that are bound."""

import textwrap
from typing import Any

import pytest

pytestmark = pytest.mark.clients
ENVIRONMENT = "tools"

BEFORE = """
import importlib.util
if importlib.util.find_spec("langchain_openai") is None:
    print('"langchain-openai is not installed"')
    sys.exit()
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from typing import Literal

class Person(BaseModel):
    "A person."
    name: str = Field(max_length=10)
    age: int = Field(ge=0, le=150)

ai = ChatOpenAI(
    model="instruct", base_url=f"{url}/v1", api_key="none", max_retries=0, temperature=1.5, seed=1,
    max_tokens=300,
)
"""


def found(run: Any, program: str) -> Any:
    answer = run(BEFORE + textwrap.dedent(program))
    if answer == "langchain-openai is not installed":
        pytest.skip(answer)
    return answer


def test_structured_output_by_function_calling(run: Any) -> None:
    whole, streamed = found(
        run,
        """
        chain = ai.with_structured_output(Person, method="function_calling")
        whole = chain.invoke("Ann is 31.").model_dump()
        *_, last = chain.stream("Ann is 31.")
        print(json.dumps([whole, last.model_dump()]))
        """,
    )
    assert whole == streamed
    assert 0 <= whole["age"] <= 150


def test_a_tool_is_called_and_its_result_goes_back(run: Any) -> None:
    name, sides, said = found(
        run,
        """
        @tool
        def roll(sides: Literal[6, 20]) -> str:
            "Roll a die."
            return "4"

        asked = [HumanMessage("Roll it.")]
        call = ai.bind_tools([roll], tool_choice="any").invoke(asked)
        [made] = call.tool_calls
        result = roll.invoke(made)
        assert isinstance(result, ToolMessage)
        last = ai.bind_tools([roll], tool_choice="none").invoke([*asked, call, result])
        print(json.dumps([made["name"], made["args"]["sides"], last.content]))
        """,
    )
    assert name == "roll"
    assert sides in (6, 20)
    assert isinstance(said, str)
