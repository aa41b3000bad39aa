"""`penwright-train`: one program, one command for each kind of training.

Exit codes: 0 done, 1 something went wrong, 2 a flag is wrong, 130 interrupted. Errors are one line
on stderr.
"""

import argparse
import sys
from collections.abc import Sequence

from model.errors import PenwrightError, UsageError
from training.loop.distributed import abandon, processes
from training.loop.memory import memory_errors
from training.report.output import shown

try:
    from training.commands import (
        classify,
        data,
        dpo,
        duplicates,
        evaluate,
        export,
        import_,
        instruct,
        judge,
        pretrain,
        sweep,
        tokenizer,
    )
except ModuleNotFoundError as missing:  # the service is installed without what training needs
    raise SystemExit(
        f"penwright-train: {missing.name} is not installed: run pip install '.[train]' "
        "in Penwright's directory"
    ) from None

COMMANDS = {
    "tokenizer": (tokenizer, "learn a byte-pair vocabulary from text"),
    "pretrain": (pretrain, "train a base model on text"),
    "classify": (classify, "fine-tune a classifier of texts"),
    "instruct": (instruct, "fine-tune a model that follows instructions"),
    "dpo": (dpo, "tune a model by pairs of preferred and rejected answers"),
    "evaluate": (evaluate, "measure a checkpoint"),
    "judge": (judge, "let another language model mark a checkpoint's answers"),
    "data": (data, "get training data that has a public home"),
    "sweep": (sweep, "search for good settings of a training"),
    "duplicates": (duplicates, "find near copies in data, and drop them"),
    "import": (import_, "read weights of other programs"),
    "export": (export, "write a checkpoint in other programs' files"),
}

_SHOW = ("evaluate", "judge", "duplicates")
"""Commands that have done nothing if nobody could see it."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("penwright-train", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(command_function=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    with shown() as out:
        args = parser().parse_args(argv)
        code = _run(args)
        out.flush()
        if out.error is None or isinstance(out.error, BrokenPipeError):  # as of `| head`
            return code
        lost = f"stdout: cannot be written: {getattr(out.error, 'strerror', None) or out.error}"
        if not code and args.command in _SHOW:
            return _failed(args, lost, 1)
        print(f"penwright-train {args.command}: {lost}", file=sys.stderr)
        return code


def _run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    try:
        # Commands with a training loop have the flags that several processes need.
        timeout = getattr(args, "process_timeout", None)
        with processes(getattr(args, "device", "cpu"), timeout), memory_errors(vars(args)):
            args.command_function(args)
    except PenwrightError as error:
        return _failed(args, str(error), 2 if isinstance(error, UsageError) else 1)
    except OSError as error:  # a full disk, a directory without permission
        where = f"{error.filename}: " if error.filename else ""
        return _failed(args, f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:  # while steps are taken, the loop saves its state and stops
        return _failed(args, "interrupted", 130)
    return 0


def _failed(args: argparse.Namespace, message: str, code: int) -> int:
    print(f"penwright-train {args.command}: {message}", file=sys.stderr)
    abandon(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
