"""A replica whose engine can be made to die."""

from fastapi import FastAPI

from app.ray import Penwright


class Mortal(Penwright):
    """With one more route: GET /die ends the engine's thread."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = super().__serve_build_asgi_app__()

        async def die() -> None:
            def exit_thread() -> None:
                raise SystemExit

            [engine_client] = self._service.engine_clients()
            engine_client.engine._errands.put(exit_thread)

        app.add_api_route("/die", die)
        return app
