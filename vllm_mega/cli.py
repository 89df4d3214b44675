"""The command line: parsing, and errors as exit codes. Every command is a module of `vllm_mega.commands`.

The command `eval-dialogue` is the module `eval_dialogue`. It has `HELP` (one line, a literal),
`configure(parser)` and `run(args) -> int`, and may set `PASSTHROUGH = True`: options that it does not know
are then no error, and come to `run` in `args.rest`.
Only the chosen module is imported; the list of commands reads `HELP` from the source of the others.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from vllm_mega import __version__, commands
from vllm_mega.errors import MegaError

PROG = "vllm-mega"
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
EXIT_PIPE = 141  # 128 + SIGPIPE


class Command(Protocol):
    """What a module of `vllm_mega.commands` offers."""

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def command_help() -> dict[str, str]:
    """Every command's name and its HELP, without importing any of them."""
    files = (file for folder in commands.__path__ for file in Path(folder).glob("*.py"))
    shown = [file for file in sorted(files) if not file.stem.startswith("_")]
    return {file.stem.replace("_", "-"): _literal_help(file) for file in shown}


def _literal_help(file: Path) -> str:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name("HELP")], value=ast.expr() as text)
                | ast.AnnAssign(target=ast.Name("HELP"), value=ast.expr() as text)
            ):
                return str(ast.literal_eval(text))
    raise AssertionError(f"{file} must assign a string literal to HELP")


def parse(argv: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """The chosen command and its arguments; leaves through SystemExit for --help, --version and mistakes."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Long-term memory in the weights of a language model, served by vLLM.",
        epilog=f"Each command has its own help: {PROG} COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    known = {
        name: subparsers.add_parser(
            name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        for name, text in command_help().items()
    }
    # Our own options take no values, so the first word is the command.
    name = next((word for word in argv if not word.startswith("-")), None)
    if name not in known:
        if name is not None and (close := difflib.get_close_matches(name, known, n=1)):
            parser.error(f"unknown command {name!r}; did you mean {close[0]!r}?")
        parser.parse_args(argv)  # answers --help and --version, and names what is wrong with the rest
        raise AssertionError("argparse accepts no unknown command")

    module = importlib.import_module(f"{commands.__name__}.{name.replace('-', '_')}")
    command = cast("Command", module)
    command.configure(known[name])
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(command, "PASSTHROUGH", False):
        known[name].error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    return command, args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. `argv` is without the program's name, default `sys.argv[1:]`."""
    try:
        command, args = parse(sys.argv[1:] if argv is None else argv)
        code = command.run(args)
        sys.stdout.flush()  # here, so that a reader who has gone is met below
    except MegaError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `vllm-mega ... | head`: what is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    return code
