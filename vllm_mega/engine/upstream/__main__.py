"""Prints the contract, or checks a source tree: python -m vllm_mega.engine.upstream [FOLDER]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vllm_mega.contract.judging import findings
from vllm_mega.contract.telling import lines, table
from vllm_mega.contract.tested import wanted
from vllm_mega.contract.tree import Tree
from vllm_mega.contract.use import holding, pins
from vllm_mega.engine.upstream.whole import CONTRACT


def main(argv: Sequence[str]) -> int:
    """Print what was asked for; 1 if a tree is not what we expect, 2 if there is nothing to check in it."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm_mega.engine.upstream",
        description="What vllm_mega relies on inside vLLM and transformers.",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="holds vllm/ or transformers/ to check: an unpacked wheel, for one",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="the contract as the tables of docs/upstream.md"
    )
    args = parser.parse_args(argv)
    if args.folder is None:
        _say(told(markdown=args.markdown))
        return 0
    tree = Tree(args.folder)
    packages = [package for package in CONTRACT if tree.has(package)]
    if not packages:
        parser.error(
            f"{args.folder} holds neither {'/ nor '.join(CONTRACT)}/: give the folder that they lie in"
        )
    return max([_checked(tree, package) for package in packages])


def told(*, markdown: bool = False) -> Iterator[str]:
    """The whole contract, in lines."""
    for package, uses in CONTRACT.items():
        if markdown:
            yield from (f"### {package}", "", *table(uses), "")
        else:
            yield from lines(uses)


def _checked(tree: Tree, package: str) -> int:
    uses = list(holding(CONTRACT[package], tree.version))
    found = findings(uses, tree)
    names = sum(max(1, len(list(pins(use)))) for use in uses)
    _say(
        [f"{package} {tree.version(package)} (tested: {wanted(package)}): {names} names, {len(found)} differ"]
    )
    _say(f"  {finding}" for finding in found)
    return min(1, len(found))


def _say(text: Iterator[str] | Sequence[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
