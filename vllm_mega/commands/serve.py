"""`vllm-mega serve`: start vLLM's OpenAI-compatible server with the memories of a bank."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_mega.commands._memory_options import Launch

HELP = "serve a bank: vLLM's OpenAI-compatible server, with memory"
PASSTHROUGH = True


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vllm-mega serve`; all others go to `vllm serve`."""
    from vllm_mega.commands._beside import add_beside_options
    from vllm_mega.commands._memory_options import add_memory_options
    from vllm_mega.commands._settings import add_setting
    from vllm_mega.config import MegaSettings

    parser.description = (
        "Start vLLM's OpenAI-compatible server: NAME is the base model, NAME-mega the same with memory. "
        "Every option that is not listed here is one of `vllm serve`."
    )
    parser.epilog = "Example: vllm-mega serve --bank bank --mode irag --port 8001 --max-model-len 4096"
    add_memory_options(parser)
    add_setting(parser, MegaSettings, "max_requests", metavar="N", told="four times --max-num-seqs")
    add_setting(parser, MegaSettings, "forget_running")
    for name in ("keys", "audit"):
        add_setting(parser, MegaSettings, name, metavar="FILE", told="none", type=_absolute)
    add_beside_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check the bank, then become the keeper of `vllm serve`, and of a trainer if one is asked for."""
    from vllm_mega.commands._beside import beside
    from vllm_mega.http.launch import command_line

    launch = checked_launch(args)
    defaults = {"host": "127.0.0.1"} if "host" not in launch.given else {}
    trainer = beside(args, launch)
    command = [sys.executable, "-m", "vllm_mega.http.keeper"]
    command += ["--beside", trainer.word()] if trainer else []
    command += [sys.executable, "-m", "vllm_mega.http.vllm_serve", launch.model]
    command += command_line({**launch.options, **defaults}, args.rest)
    print(f"serving {launch.name} and {launch.name}-mega with {launch.memories} memories", flush=True)
    if trainer:
        print(f"a trainer starts beside them (its lines: [{trainer.name}])", flush=True)
    os.execve(sys.executable, command, {**os.environ, **launch.environment})  # noqa: S606  # no shell
    raise AssertionError("execve does not return")


def checked_launch(args: argparse.Namespace) -> Launch:
    """How the server is to be started, once nothing is known that would keep it from it.

    Raises:
        BankError, ModelError, ConfigError: bank, model, keys and options do not go together.
    """
    from vllm_mega.commands._memory_options import plan_launch
    from vllm_mega.http.server_keys import server_keys

    launch = plan_launch(args)
    api_keys = launch.given.get("api_key") or filter(None, [os.environ.get("VLLM_API_KEY")])
    server_keys(launch.settings, list(api_keys), os.environ)
    return launch


def _absolute(path: str) -> str:
    """The server may run in another folder."""
    return os.path.abspath(path)  # noqa: PTH100  (links stay as they are)
