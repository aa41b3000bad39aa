"""Agents of Pydantic AI: outputs and tools are calls, and results go back."""

import textwrap
from typing import Any

import pytest

pytestmark = pytest.mark.clients
ENVIRONMENT = "tools"

BEFORE = """
import importlib.util
if importlib.util.find_spec("pydantic_ai") is None:
    print('"pydantic-ai is not installed"')
    sys.exit()
from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

class Person(BaseModel):
    name: str = Field(max_length=10)
    age: int = Field(ge=0, le=150)

provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
model = OpenAIChatModel("instruct", provider=provider)
settings = {"max_tokens": 300, "temperature": 2.0, "seed": 1}
"""


def found(run: Any, program: str) -> Any:
    answer = run(BEFORE + textwrap.dedent(program))
    if answer == "pydantic-ai is not installed":
        pytest.skip(answer)
    return answer


def test_an_output_of_a_type(run: Any) -> None:
    people = found(
        run,
        """
        agent = Agent(model, output_type=Person, model_settings=settings)
        people = [agent.run_sync("Ann is 31.").output.model_dump() for _ in range(2)]
        print(json.dumps(people))
        """,
    )
    assert all(0 <= person["age"] <= 150 for person in people)


def test_a_tool_is_called_and_answered(run: Any) -> None:
    name, arguments, output = found(
        run,
        """
        from pydantic_ai.direct import model_request_sync
        from pydantic_ai.messages import ModelRequest, ToolReturnPart, UserPromptPart
        from pydantic_ai.models import ModelRequestParameters
        from pydantic_ai.tools import ToolDefinition

        sides = {"properties": {"sides": {"enum": [6, 20]}}, "required": ["sides"]}
        roll = ToolDefinition(name="roll", description="Roll a die.", parameters_json_schema=sides)
        asked = [ModelRequest(parts=[UserPromptPart("Roll a die.")])]
        called = model_request_sync(
            model,
            asked,
            model_settings=settings,
            model_request_parameters=ModelRequestParameters(
                function_tools=[roll], allow_text_output=False
            ),
        )
        [call] = called.parts
        result = ModelRequest(parts=[ToolReturnPart(call.tool_name, "4", call.tool_call_id)])
        agent = Agent(model, output_type=Person, model_settings=settings)
        history = [*asked, called, result]
        output = agent.run_sync("Who is Ann?", message_history=history).output
        print(json.dumps([call.tool_name, call.args_as_dict(), output.model_dump()]))
        """,
    )
    assert name == "roll"
    assert arguments in ({"sides": 6}, {"sides": 20})
    assert 0 <= output["age"] <= 150


def test_a_streamed_output(run: Any) -> None:
    person = found(
        run,
        """
        import asyncio

        async def main():
            agent = Agent(model, output_type=Person, model_settings=settings)
            async with agent.run_stream("Ann is 31.") as result:
                return (await result.get_output()).model_dump()

        print(json.dumps(asyncio.run(main())))
        """,
    )
    assert 0 <= person["age"] <= 150
