"""Whether a method of ours can be called in every way that the one it stands for can be called in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from tests.contract.sources import sources, stocks
from vllm_mega.contract.signature import Function, Signature, of_source
from vllm_mega.contract.use import Use


class Override(NamedTuple):
    """A method of ours that stands for one of theirs."""

    ours: str
    """`module:Class`."""
    owner: str
    """Whose method it stands for: `module:Class`."""
    name: str
    signature: Signature

    def __str__(self) -> str:
        return f"{self.ours}.{self.name} for {self.owner}"


def of_classes() -> Iterator[Override]:
    """All methods of our classes that stand on theirs; some of them theirs have not."""
    for module, one in _classes():
        for owner in stocks()[one.name]:
            for function in _functions(one):
                yield Override(f"{module}:{one.name}", owner, function.name, of_source(function))


def of_contract(uses: tuple[Use, ...]) -> Iterator[Override]:
    """The methods of ours that `uses` call overrides; whether their class stands on theirs or in for it."""
    for use in uses:
        for module, one in _classes():
            if module in use.by.split():
                for function in _functions(one):
                    if function.name in use.overrides:
                        yield Override(f"{module}:{one.name}", use.owner, function.name, of_source(function))


@cache
def _classes() -> list[tuple[str, ast.ClassDef]]:
    return [
        (source.name, one)
        for source in sources()
        for one in ast.walk(source.tree)
        if isinstance(one, ast.ClassDef)
    ]


def _functions(one: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [statement for statement in one.body if isinstance(statement, Function)]


def conforms(ours: Signature, theirs: Signature) -> bool:
    """Whether `ours` takes every call that `theirs` takes."""
    stars = {one.stars for one in theirs.parameters if one.stars}
    return stars <= {one.stars for one in ours.parameters} and all(map(ours.takes, ways(theirs)))


def ways(theirs: Signature) -> Iterator[str]:
    """Calls that it takes: without what has a default, with ever more by position, all by keyword."""
    own = [one for one in theirs.bound().parameters if not one.stars]
    usual = [one for one in own if not one.by_keyword_alone]
    asked = [f"{one.name}=" for one in own if one.by_keyword_alone and one.required]
    first = ["async"] if theirs.is_async else []
    for n in range(sum(one.required for one in usual), len(usual) + 1):
        yield " ".join([*first, *(one.name for one in usual[:n]), *asked])
    yield " ".join([*first, *(f"{one.name}=" for one in own)])
