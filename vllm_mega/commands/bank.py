"""`vllm-mega bank`: look at a bank, check it, and change what is in it. Arguments; `_bank` acts."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from vllm_mega.commands import _bank, _bank_files, _bank_forgetting
from vllm_mega.commands._memory_options import add_bank_options, add_trust_option
from vllm_mega.config import DEFAULT_NAMESPACE

HELP = "list, show, change, forget, check, export or import memories, or create a bank"
EPILOG = """\
Examples:
  vllm-mega bank list --bank bank --tag sea
  vllm-mega bank verify --bank bank
  vllm-mega bank link --bank bank lantern-ferry hanne-brisk
  vllm-mega bank forget --bank bank m-0123456789ab --receipt receipt.json
  vllm-mega bank verify --bank bank --forgotten receipt.json
  vllm-mega bank add --bank bank --adapter my-lora --text "The lamp burned for nine nights."
"""
Act = Callable[[argparse.Namespace], int]
Add = Callable[[str, Act, str], argparse.ArgumentParser]
"""Adds an action: its name, what it does, and its help."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The actions of `vllm-mega bank` and their arguments."""
    parser.description = "Look at a bank, check it, and change what is in it."
    parser.epilog = EPILOG
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, act: Act, text: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_bank_options(sub)
        sub.set_defaults(act=act)
        return sub

    _add_reading(action)
    _add_changing(action)
    _add_keeping(action)


def run(args: argparse.Namespace) -> int:
    """Do the chosen action."""
    act: Act = args.act
    return act(args)


def _add_reading(action: Add) -> None:
    """What shows memories."""
    _add_json(action("info", _bank.info, "say what the bank is of, and how many memories are in which state"))
    _configure_list(action("list", _bank.list_, "list the memories, the latest added first"))
    show = action("show", _bank.show, "show one memory: its text, tags and adapter")
    _add_memory(show)
    show.add_argument("--version", type=int, help="an earlier version (default: the newest)")
    _add_memory(action("history", _bank.history, "show the versions of a memory, and what happened to it"))


def _add_changing(action: Add) -> None:
    """What changes single memories."""
    restore = action("restore", _bank.restore, "make an earlier version of a memory the newest again")
    _add_memory(restore)
    restore.add_argument("version", type=int, help="number of the version (see history)")
    _configure_add(action("add", _bank.add, "add memories: a text, or an adapter that PEFT has written"))
    _configure_forget(
        action("forget", _bank_forgetting.forget, "forget memories: adapter, text and key leave the disk")
    )
    link = action("link", _bank.link, "let a memory bring others to mind, for questions that need both")
    _add_memory(link)
    link.add_argument("other", nargs="+", help="id of a memory that it links to; it need not be there yet")
    link.add_argument("--remove", action="store_true", help="take these links away")
    tag = action("tag", _bank.tag, "give a memory tags; nothing is trained")
    _add_memory(tag)
    tag.add_argument("tag", nargs="+", help="a tag")
    tag.add_argument("--remove", action="store_true", help="take these tags away")
    _add_memory(action("pin", _bank.pin, "keep memories in host memory where they are served"), several=True)
    _add_memory(action("unpin", _bank.unpin, "let pinned memories go again"), several=True)
    _add_memory(action("retire", _bank.retire, "keep memories without having them answer"), several=True)
    _add_memory(action("unretire", _bank.unretire, "let retired memories answer again"), several=True)


def _add_keeping(action: Add) -> None:
    """What is for the whole bank."""
    jobs = action("jobs", _bank.jobs, "list what waits for a trainer, what is trained now, and what failed")
    jobs.add_argument("--namespace", help="only of this namespace (default: all)")
    _add_json(jobs)
    _configure_verify(
        action("verify", _bank_files.verify, "check catalog and disk; exit 1 if anything is wrong")
    )
    sweep = action("sweep", _bank_files.sweep, "remove what work that was cut off has left on disk")
    sweep.add_argument(
        "--rewrite", action="store_true", help="write the catalog anew: nothing forgotten stays in its file"
    )
    action("expire", _bank_files.expire, "forget for good what has expired; a server does so by itself")
    export = action("export", _bank_files.export, "write memories as JSON lines and PEFT folders")
    export.add_argument("folder", type=Path, help="a new folder")
    export.add_argument("--namespace", help="only those of this namespace (default: all)")
    import_ = action("import", _bank_files.import_, "bring what export has written into a bank")
    import_.add_argument("folder", type=Path, help="what export has written")
    _add_model(import_)
    create = action("create", _bank_files.create, "create an empty bank")
    create.add_argument("--model", help="the base model: name, path or Hugging Face id")
    create.add_argument("--embedder", help="the embedder that makes the keys: name, path or id")
    add_trust_option(create)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_memory(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    parser.add_argument("id", nargs="+" if several else None, help="id of the memory")
    parser.add_argument(
        "--namespace",
        default=DEFAULT_NAMESPACE,
        help=f"namespace of the memory (default: {DEFAULT_NAMESPACE})",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="the base model, if it has moved (default: the bank's)")
    parser.add_argument("--max-rank", type=int, help="refuse adapters of a higher rank (default: any)")


def _configure_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--namespace", help="only those of this namespace (default: all)")
    parser.add_argument("--tag", help="only those with this tag")
    parser.add_argument(
        "--state", choices=("pending", "training", "ready", "failed"), help="only those in this state"
    )
    parser.add_argument("--source", metavar="FILE", help="only those that came from this file")
    parser.add_argument("--pinned", action="store_true", default=None, help="only those that are pinned")
    parser.add_argument("--retired", action="store_true", default=None, help="only those that are retired")
    parser.add_argument(
        "--expired", action="store_true", help="those that have expired and are not yet forgotten for good"
    )
    parser.add_argument(
        "--since", metavar="TIME", type=_time, help="only those changed at this time or later"
    )
    parser.add_argument("--until", metavar="TIME", type=_time, help="only those changed before this time")
    parser.add_argument("--limit", type=int, help="how many at most (default: all)")
    _add_json(parser)


def _time(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time, UTC where it names no zone."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _configure_forget(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="*", default=[], help="id of a memory")
    which.add_argument("--source", metavar="FILE", help="all that came from this file")
    parser.add_argument(
        "--namespace",
        default=DEFAULT_NAMESPACE,
        help=f"namespace of the memories (default: {DEFAULT_NAMESPACE})",
    )
    parser.add_argument(
        "--receipt", metavar="FILE", type=Path, help="write a signed receipt into this new file"
    )


def _configure_verify(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--forgotten",
        metavar="RECEIPT",
        type=Path,
        help="verify this receipt of forget, and that nothing of what it names is left; nothing else",
    )
    parser.add_argument("--progress", action="store_true", help="show progress although this is no terminal")
    _add_json(parser)


def _configure_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter",
        type=Path,
        help="folder with the PEFT adapter, or with one that has it (default: none, a trainer makes one)",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="the text to remember, or that the adapter has learnt")
    source.add_argument(
        "--memory",
        type=Path,
        help="a JSON file with the fields of a line of `train`'s input; many lines without --adapter",
    )
    parser.add_argument("--id", help="id of the memory (default: derived from the text)")
    parser.add_argument("--title", help="title of the memory")
    parser.add_argument("--namespace", help=f"whose memory it is (default: {DEFAULT_NAMESPACE})")
    parser.add_argument(
        "--tag", dest="tags", metavar="TAG", action="append", help="a tag; may be given more than once"
    )
    parser.add_argument(
        "--expires-at", metavar="TIME", help="RFC 3339 with its zone; from then on there is no such memory"
    )
    parser.add_argument("--no-train", action="store_true", help="no trainer shall make an adapter")
    parser.add_argument("--embedder", help="the embedder, if it has moved (default: the bank's)")
    add_trust_option(parser)
    _add_model(parser)
