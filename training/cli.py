"""`penwright-train`: one program, one command for each kind of training.

Exit codes: 0 done, 1 something went wrong, 2 a flag is wrong, 130 interrupted. Errors are one line
on stderr.
"""

import argparse
import sys
from collections.abc import Sequence

from model.errors import PenwrightError, UsageError

try:
    from training.tasks import classify, data, evaluate, import_, instruct, pretrain, tokenizer
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
    "evaluate": (evaluate, "measure a checkpoint"),
    "data": (data, "get training data that has a public home"),
    "import": (import_, "read GPT-2 weights from Hugging Face files"),
}


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
    args = parser().parse_args(argv)
    try:
        args.command_function(args)
    except PenwrightError as error:
        print(f"penwright-train {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:  # a full disk, a directory without permission
        where = f"{error.filename}: " if error.filename else ""
        print(f"penwright-train {args.command}: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while steps are taken, the loop saves its state and stops
        print(f"penwright-train {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
