"""/openapi.json says of API keys what holds here: where they are used, each path that needs one."""

from typing import Any

from fastapi import FastAPI

from app.api.documentation import problems
from app.http.guard import is_open
from app.settings import Settings

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def describe_keys(app: FastAPI, settings: Settings) -> None:
    """Have the description of `app` say that keys are needed."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = original()  # which keeps it
            schema.setdefault("components", {})["securitySchemes"] = SCHEMES
            for path, operations in schema["paths"].items():
                if not is_open(path, settings):
                    for operation in operations.values():
                        operation["security"] = [{name: []} for name in SCHEMES]
                        for status, answer in problems(401, 429).items():
                            # In the form of the operation's other errors: below /v1, OpenAI's.
                            own = operation["responses"].get("503", answer)["content"]
                            told = {**answer, "content": own}
                            operation["responses"].setdefault(str(status), told)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
