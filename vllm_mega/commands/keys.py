"""`vllm-mega keys`: who may use a server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_mega.access.limits import Limits

HELP = "add, list or revoke keys of a server, and set the limits of namespaces"
Act = Callable[[argparse.Namespace], int]
EPILOG = """\
examples:
  vllm-mega keys add alice --file keys.json --role write --namespace team-a
  vllm-mega keys add ops --file keys.json --role admin
  vllm-mega keys limit team-a --file keys.json --memories 10000 --changes-per-minute 600
  vllm-mega serve --bank bank --keys keys.json

The file has digests, never keys: a key is printed once. A running server sees changes at its next request."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions of `vllm-mega keys` and their arguments."""
    from vllm_mega.access.principals import ROLES

    parser.description = "Say who may use a server: keys with roles and namespaces, and limits of namespaces."
    parser.epilog = EPILOG
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, act: Act, text: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--file", required=True, type=Path, help="the file of keys")
        sub.set_defaults(act=act)
        return sub

    add = action("add", _add, "make a key and print it, once; the file is made if there is none")
    add.add_argument("name", help="of its holder, for histories and logs")
    add.add_argument(
        "--role",
        required=True,
        choices=ROLES,
        help="read: ask and look; write: change too; admin: everything",
    )
    which = add.add_mutually_exclusive_group()
    which.add_argument(
        "--namespace", action="append", help="that it is for; may be given several times, the first is meant "
        "where a request names none",
    )  # fmt: skip
    which.add_argument("--all-namespaces", action="store_true", help="it is for all of them")
    action("list", _list, "list the keys' holders, and the limits")
    revoke = action("revoke", _revoke, "let a key open nothing any more")
    revoke.add_argument("name", help="of its holder")
    _configure_limit(
        action("limit", _limit, "set the limits of a namespace; what is not given is as if there were none")
    )


def _configure_limit(parser: argparse.ArgumentParser) -> None:
    from vllm_mega.access.limits import Limits
    from vllm_mega.config import described

    parser.add_argument("namespace", help="its name; '*': all that have no limits of their own")
    for name, text in described(Limits).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=text)


def run(args: argparse.Namespace) -> int:
    """Do the chosen action."""
    act: Act = args.act
    return act(args)


def _add(args: argparse.Namespace) -> int:
    from vllm_mega.access.keyfile import change_keys
    from vllm_mega.access.keys import new_key
    from vllm_mega.errors import ConfigError

    if args.role != "admin" and not args.namespace and not args.all_namespaces:
        raise ConfigError(
            f"say what the key is for: --namespace NAME, or --all-namespaces (role {args.role})"
        )
    key, entry = new_key(args.name, args.role, args.namespace)
    change_keys(args.file, lambda book: book.with_key(entry))
    print(key)
    print(f"this is the key of {entry.name}; it is kept nowhere, so keep it now", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace) -> int:
    from vllm_mega.access.keyfile import read_keys
    from vllm_mega.commands._printing import moment, print_table

    book = read_keys(args.file)
    rows = [(e.name, e.role, ",".join(e.namespaces or ["(all)"]), moment(e.added)) for e in book.keys]
    print_table(("NAME", "ROLE", "NAMESPACES", "ADDED"), rows)
    if book.limits:
        print_table(("NAMESPACE", "MEMORIES", "TEXT BYTES", "CHANGES/MIN"), _limit_rows(book.limits))
    return 0


def _limit_rows(limits: Mapping[str, Limits]) -> list[tuple[str, ...]]:
    return [
        (name, _number(one.memories), _number(one.text_bytes), _number(one.changes_per_minute))
        for name, one in sorted(limits.items())
    ]


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _revoke(args: argparse.Namespace) -> int:
    from vllm_mega.access.keyfile import change_keys

    change_keys(args.file, lambda book: book.without_key(args.name))
    print(f"the key of {args.name} opens nothing any more")
    return 0


def _limit(args: argparse.Namespace) -> int:
    from vllm_mega.access.keyfile import change_keys
    from vllm_mega.access.limits import Limits
    from vllm_mega.config import settings_from

    given = {name: getattr(args, name) for name in Limits.__struct_fields__}
    limits = settings_from({name: value for name, value in given.items() if value is not None}, Limits)
    change_keys(args.file, lambda book: book.with_limits(args.namespace, limits))
    print(f"limits of {args.namespace} are set")
    return 0
