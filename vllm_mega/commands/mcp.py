"""`vllm-mega mcp`: an MCP server over stdin and stdout, for agents that start their tools themselves."""

from __future__ import annotations

import argparse
import os
import re

HELP = "give an agent the memory of a server as tools (MCP over stdin and stdout)"
VARIABLE = "VLLM_MEGA_API_KEY"
EPILOG = """\
examples:
  vllm-mega mcp --url http://127.0.0.1:8000
  VLLM_MEGA_API_KEY=mega-... vllm-mega mcp --url https://memory.example --namespace team-a

An agent starts this command and speaks to it; docs/agents.md has what to write into its configuration. What
the tools may do is what the key may do. Agents that speak MCP over HTTP need no command: give them
http://127.0.0.1:8000/v1/mega/mcp."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vllm-mega mcp`."""
    parser.description = (
        "Give an agent the memory of a running server as tools, by the Model Context Protocol."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "--url", default="http://127.0.0.1:8000", help="root of the server (default: %(default)s)"
    )
    parser.add_argument("--namespace", help="whose memories; without it, the first that the key is for")


def run(args: argparse.Namespace) -> int:
    """Answer until stdin ends; the key is read from the environment, for arguments can be seen by others."""
    from vllm_mega.config import check_name
    from vllm_mega.errors import ConfigError
    from vllm_mega.mcp.stdio import run as serve

    if args.namespace is not None:
        check_name(args.namespace, "--namespace")
    key = os.environ.get(VARIABLE) or None
    if key is not None and not re.fullmatch("[!-~]+", key):
        raise ConfigError(f"{VARIABLE} has white space or characters that no key has: give the key alone")
    serve(_root(args.url), key, args.namespace)
    return 0


def _root(url: str) -> str:
    """`url` without what clients of OpenAI's protocol write behind it.

    Raises:
        ConfigError: it is none of HTTP.
    """
    from urllib.parse import urlsplit

    from vllm_mega.errors import ConfigError

    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError
    except ValueError as error:
        raise ConfigError(
            f"--url must be the root of a server, such as http://127.0.0.1:8000: {url!r}"
        ) from error
    return url.rstrip("/").removesuffix("/v1")
