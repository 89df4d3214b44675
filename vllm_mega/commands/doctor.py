"""`vllm-mega doctor`: whether a server would serve here, and what to change if not."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_mega.commands._memory_options import Launch
    from vllm_mega.doctor.bank import Asked
    from vllm_mega.doctor.finding import Check, Finding

HELP = "look for what would keep a server from serving, and say what to change"
PASSTHROUGH = True
EPILOG = """\
examples:
  vllm-mega doctor
  vllm-mega doctor --bank bank --config serving_configs/cpu.yaml
  vllm-mega doctor --bank bank --generate

Nothing is changed, and nothing downloaded. A problem makes the exit status 1; a warning does not."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vllm-mega doctor`; all others are those of `vllm-mega serve`."""
    from vllm_mega.commands._memory_options import add_bank_options

    parser.description = (
        "Look at the packages, the inside of vLLM, the machine, the models and a bank. With --bank every "
        "option of `vllm-mega serve` may follow: then what it would do is looked at, too."
    )
    parser.epilog = EPILOG
    add_bank_options(parser, "the bank's folder (default: only the machine is looked at)", required=False)
    parser.add_argument("--model", help="base model: name, path or Hugging Face id (default: the bank's)")
    parser.add_argument("--embedder", help="embedder of the gate: name, path or id (default: the bank's)")
    parser.add_argument(
        "--generate",
        action="store_true",
        help="start a server as well, and let it say a few words; without --bank with the default models",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Look at everything; 1 if something would keep a server from serving."""
    from vllm_mega.doctor.examination import examination
    from vllm_mega.doctor.finding import examined, exit_status

    words = _serve_words(args)
    found = list(examination(_asked(args), _serve(words)))
    if args.generate and not exit_status(found):
        found += examined("generation", _generation(words))
    _print(found, as_json=args.json)
    return exit_status(found)


def _asked(args: argparse.Namespace) -> Asked | None:
    from vllm_mega.doctor.bank import Asked

    return args.bank and Asked(args.bank, args.catalog, args.model, args.embedder)


def _serve_words(args: argparse.Namespace) -> list[str]:
    """The arguments of `serve` for the same; none without a bank.

    Raises:
        ConfigError: options that mean nothing without a bank.
    """
    from vllm_mega.errors import ConfigError

    named = {f"--{name}": getattr(args, name) for name in ("bank", "catalog", "model", "embedder")}
    words = [str(word) for name, value in named.items() if value is not None for word in (name, value)]
    words += args.rest
    if words and args.bank is None:
        raise ConfigError(f"{shlex.join(words)} is about a bank: give --bank")
    return words


def _serve(words: Sequence[str]) -> Check:
    def check() -> Iterator[Finding]:
        from vllm_mega.commands import serve
        from vllm_mega.doctor.finding import Finding

        parser = argparse.ArgumentParser(prog="vllm-mega serve", allow_abbrev=False)
        serve.configure(parser)
        args, rest = parser.parse_known_args(words)
        args.rest = rest
        yield Finding("serve", "ok", _told(serve.checked_launch(args)))

    return check


def _told(launch: Launch) -> str:
    options = {**launch.given, **launch.options}
    slots, rank = options["max_loras"], options.get("max_lora_rank", "vLLM's default")
    return f"{launch.name}, {launch.memories} memories with an adapter, {slots} slots of rank {rank}"


def _generation(words: Sequence[str]) -> Check:
    def check() -> Iterable[Finding]:
        from vllm_mega.doctor.generation import generation

        return generation(words)

    return check


def _print(found: Sequence[Finding], *, as_json: bool) -> None:
    from vllm_mega.commands._printing import print_json, print_table

    if as_json:
        print_json(found)
        return
    rows = [(one.status, one.name, ": ".join(filter(None, (one.found, one.change)))) for one in found]
    print_table(("STATUS", "WHAT", "FOUND, AND WHAT TO CHANGE"), rows)
    problems = sum(one.status == "problem" for one in found)
    print(f"problems: {problems}, warnings: {sum(one.status == 'warning' for one in found)}")
