"""What the user says of vLLM on a command line, read by vLLM's own parser.

So every spelling that `vllm serve` knows is known here: -O2, -tp=2, --compilation-config.mode=3, what is
abbreviated, and the file of --config.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from vllm_mega.errors import ConfigError


def given_options(argv: Sequence[str]) -> dict[str, Any]:
    """The options in `argv` and in the file of its --config, by their Python names, with vLLM's values.

    Only what is said: no defaults. argv wins over the file.

    Raises:
        ConfigError: what vLLM's parser refuses, and what cannot be had with memory.
    """
    if not argv:
        return {}
    given = _parsed(argv)
    if "model_tag" in given:
        raise ConfigError(f"unexpected argument {given['model_tag']!r}: the model is given as --model")
    if "config" in given:
        raise ConfigError("give --config FILE as two words: vLLM does not read --config=FILE")
    if given.get("grpc"):
        raise ConfigError("vLLM's gRPC server has neither memory nor keys: leave --grpc out")
    # Ours is the last word on the command line; vLLM puts what is written with dots behind it.
    if "additional_config" in given and _parsed([*argv, "--additional-config", "{}"])["additional_config"]:
        raise ConfigError("give --additional-config as one JSON object: it gets a field of ours")
    return given


def _parsed(argv: Sequence[str]) -> dict[str, Any]:
    try:
        with _silence():
            return dict(vars(_parser().parse_args(list(argv))))
    except ConfigError:
        raise
    except Exception as error:  # of the file, of a value: vLLM's parser has no errors of its own
        reason = " ".join(str(error).split())
        raise ConfigError(f"the options of vLLM cannot be read: {reason}") from error


def _parser() -> Any:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from vllm_mega.engine.upstream.releases import server_options

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is untyped to mypy
        def error(self, message: str) -> NoReturn:  # instead of 200 lines of usage
            raise ConfigError(f"vllm serve: {message}")

    parser = server_options().make_arg_parser(Parser(prog="vllm serve", allow_abbrev=True))
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return parser


@contextmanager
def _silence() -> Iterator[None]:
    """Without vLLM's log, which is for its own start, where it parses the same words again."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
