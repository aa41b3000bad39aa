"""`penwright-serve`: serve models over HTTP.

    penwright-serve                                  the bundled models
    penwright-serve --models DIR                     a model set of one's own
    penwright-serve --base DIR --classify DIR        single checkpoints

Every flag is also an environment variable: --max-waiting is PENWRIGHT_MAX_WAITING. One is only
that: PENWRIGHT_API_KEY, a key that requests must have. Without any key, only this machine can call.
PENWRIGHT_WEIGHTS is the folder of weights that checkpoints name and do not hold, as the bundled
ones do; by default ~/.cache/penwright.

On SIGTERM or Ctrl-C, requests that run are finished, new ones are answered 503, and then the
process ends; a second signal ends it at once. On SIGHUP, models and API keys are loaded again, and
no request is dropped. Exit codes: 0 stopped; 1 the models or the port cannot be had, or an engine
was lost while serving; 2 a setting is wrong.
"""

import argparse
import gc
import sys
import typing
from collections.abc import Sequence
from typing import Any, Literal

from app.engine.service import Service
from app.http.server import Server, complain, exit_code, server_config
from app.main import create_app
from app.ops import logs
from app.settings import SECRETS, Settings, load_settings
from model.errors import UsageError
from model.standard_streams import open_standard_streams

GROUPS = {
    "models": "models",
    "host": "who may call",
    "device": "computing",
    "request_timeout": "limits",
    "log_level": "what one sees",
}
"""Of flags in the help, by the first of them."""
METAVARS = {
    "host": "HOST",
    "root_path": "/PREFIX",
    "api_keys": "FILE",
    "allowed_hosts": "HOST,HOST",
    "cors_origins": "ORIGIN,ORIGIN",
    "tracing_endpoint": "URL",
    "unsure_band": "LOW,HIGH",
}


def parser() -> argparse.ArgumentParser:
    """A flag for each field of `Settings`; their values are checked there."""
    top = argparse.ArgumentParser(
        "penwright-serve",
        usage="penwright-serve [--FLAG VALUE]...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group: argparse._ArgumentGroup | argparse.ArgumentParser = top
    for name, field in Settings.model_fields.items():
        if name in SECRETS:  # other users of the machine see the flags of its processes
            continue
        if name in GROUPS:
            group = top.add_argument_group(GROUPS[name])
        text = field.description or ""
        kind = field.annotation
        if field.default:
            value = f"{field.default:g}" if kind is float else str(field.default)
            text += f" (default {value.lower() if kind is bool else value})"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=_metavar(name, kind),
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
        )
    return top


def _metavar(name: str, kind: Any) -> str:
    if name in METAVARS:
        return METAVARS[name]
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    if kind is bool:
        return "true|false"
    return "N" if kind in (int, float) else "DIR"


def serve(settings: Settings) -> int:
    """Serve until a signal, or until the models cannot be loaded.

    Returns:
        the exit code
    """
    app = create_app(settings)
    logs.configure(settings)
    service: Service = app.state.service
    server = Server(server_config(app, settings), service, owns_process=True)
    server.reload_signal.install()
    # What was imported stays. Looking through it would stop all threads for a tenth of a second,
    # each time that the collector does.
    gc.freeze()
    try:
        server.run()
    except SystemExit:
        complain(f"--host {settings.host} --port {settings.port}: cannot listen there; see the log")
        return 1
    if service.failure is not None:
        complain(str(service.failure))
    return exit_code(server)


def main(argv: Sequence[str] | None = None) -> int:
    open_standard_streams()
    flags: dict[str, Any] = vars(parser().parse_args(argv))
    try:
        return serve(load_settings(**flags))
    except UsageError as error:
        complain(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
